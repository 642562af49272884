#!/bin/sh
# Writes a line for each word in lower case: a key without a value.
exec sed -e 'y/ABCDEFGHIJKLMNOPQRSTUVWXYZ/abcdefghijklmnopqrstuvwxyz/' \
  -e "s/[^a-z']\{1,\}/\n/g" | sed -e "s/^'*//" -e '/^$/d'
