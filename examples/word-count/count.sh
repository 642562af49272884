#!/bin/sh
# Reads sorted words, each followed by a TAB, and writes each word once with its count.
exec awk -F '\t' '
  $1 != word { if (NR > 1) print word "\t" n; word = $1; n = 0 }
  { n++ }
  END { if (NR) print word "\t" n }
'
