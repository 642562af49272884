// Runs `ray-mr COMMAND` with the arguments of this process, forwards signals, and exits with its exit code.
'use strict';
const {spawn} = require('child_process');

module.exports = command => {
  const child = spawn('ray-mr', [command, ...process.argv.slice(2)], {stdio: 'inherit'});
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => child.kill(signal));
  }
  child.on('error', error => {
    console.error(`cannot run ray-mr: ${error.message}`);
    process.exitCode = 1;
  });
  child.on('exit', (code, signal) => {
    if (signal) console.error(`ray-mr was ended by ${signal}`);
    process.exitCode = signal ? 1 : code;
  });
};
