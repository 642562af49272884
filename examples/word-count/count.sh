#!/bin/sh
# Reads the sorted words, each followed by a TAB, and writes each once with its number.
exec awk -F '\t' '
  $1 != word { if (NR > 1) print word "\t" n; word = $1; n = 0 }
  { n++ }
  END { if (NR) print word "\t" n }
'
