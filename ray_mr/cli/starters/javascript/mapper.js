// Reads file names on stdin, a line each, until its end; writes `key TAB value` lines to stdout.
'use strict';
const fs = require('fs');
const readline = require('readline');

async function main() {
  for await (const name of readline.createInterface({ input: process.stdin })) {
    const visits = new Map();
    const lines = readline.createInterface({ input: fs.createReadStream(name) });
    for await (const line of lines) {
      const visit = JSON.parse(line);
      visits.set(visit.page, (visits.get(visit.page) || 0) + 1);
    }
    for (const [page, count] of visits) {
      console.log(`${page}\t${count}`);
    }
  }
}

main();
