#!/bin/sh
# For each line of an access log, writes the values to aggregate: TYPE:NAME, a TAB, a value.
exec awk -v OFS='\t' '
  { print "LongValueSum:requests with status " $9, 1 }
  { print "UniqValueCount:clients", $1 }
  { print "ValueHistogram:requests of a page", $7 }
  { print "StringValueMin:first request", substr($4, 2) }
  { print "StringValueMax:last request", substr($4, 2) }
  $10 != "-" { print "LongValueMin:smallest answer", $10; print "LongValueMax:largest answer", $10 }
  $10 != "-" { print "DoubleValueSum:KiB", $10 / 1024 }
'
