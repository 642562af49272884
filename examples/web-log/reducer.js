// Reads `page TAB status size` lines, sorted by page; writes a line for each page.
'use strict';
const readline = require('readline');

async function main() {
  let page = null;
  let sums;
  const put = () => {
    if (page !== null) {
      console.log(`${page}\t${sums.hits} requests\t${sums.bytes} bytes\t${sums.errors} errors`);
    }
  };
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [key, value] = line.split('\t');
    if (key !== page) {
      put();
      page = key;
      sums = { hits: 0, bytes: 0, errors: 0 };
    }
    const [status, size] = value.split(' ');
    sums.hits += 1;
    sums.bytes += Number(size);
    sums.errors += status >= '400' ? 1 : 0;
  }
  put();
}

main();
