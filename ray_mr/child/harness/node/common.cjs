// The Node harness: calls the user's function for each record or group.
//
// It is copied beside the user's script and run there, and needs only Node's standard library.
// docs/reference/child-protocol.md describes the messages.  It is copied as one file, joined of
// these parts in this order: common, frames (Wire), output of the user's function (Output), roles
// (Mapper, Reducer, Streamer), and the start (main).  A part uses the names of those before it.
'use strict';

const buffer = require('buffer');
const fs = require('fs');
const path = require('path');
const { pathToFileURL } = require('url');

const FLUSH_BYTES = 1 << 20;
const CHUNK_BYTES = 1 << 18;
const PROGRESS_MS = 500;
const MESSAGE_CHARS = 2000;
const TRACE_CHARS = 8000;
const VALUE_OVERHEAD_BYTES = 32; // of a string and its place in an array
const NEWLINE = 10;
const TAB = 9;
const UUID_CHARS = 36;
const BYTE_ORDER_MARK = Buffer.from([0xef, 0xbb, 0xbf]); // of UTF-8
const HOME = process.cwd();

const isAscii = buffer.isAscii || (() => false);
const fatal = new TextDecoder('utf-8', { fatal: true });
const isUtf8 = buffer.isUtf8 || ((bytes) => {
  try {
    fatal.decode(bytes);
    return true;
  } catch {
    return false;
  }
});

class InvalidRecord extends Error {} // a record that cannot be parsed

class TooLarge extends Error {} // the values of one key are more than an array may hold
