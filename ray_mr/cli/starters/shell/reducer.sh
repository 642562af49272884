#!/bin/sh
# Reads `word TAB number` lines, sorted by word; writes each word once, with the sum.
exec awk -F '\t' '
  $1 != word { if (NR > 1) print word "\t" sum; word = $1; sum = 0 }
  { sum += $2 }
  END { if (NR) print word "\t" sum }
'
