#!/bin/sh
# Reads lines, writes a line for each word: the word, a TAB, 1.
exec awk '{
  n = split(tolower($0), words, /[^[:alpha:]]+/)
  for (i = 1; i <= n; i++) if (words[i] != "") print words[i] "\t1"
}'
