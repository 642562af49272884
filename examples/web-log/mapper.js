// Reads names of decompressed logs from stdin; writes `page TAB status size` lines.
'use strict';
const fs = require('fs');
const readline = require('readline');
const { parse } = require('./combined.js');

async function main() {
  for await (const name of readline.createInterface({ input: process.stdin })) {
    for await (const line of readline.createInterface({ input: fs.createReadStream(name) })) {
      const hit = parse(line);
      if (hit === null) {
        console.error('reporter:counter:web-log,no request,1');
      } else {
        console.log(`${hit.page}\t${hit.status} ${hit.size}`);
      }
    }
  }
}

main();
