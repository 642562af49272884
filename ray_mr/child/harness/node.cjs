// The Node harness: calls the user's function for each record or group.
//
// It is copied beside the user's script and run there, and needs only Node's standard library.
// docs/reference/child-protocol.md describes the messages.  Its sections: frames (Wire), output of
// the user's function (Output), the roles (Mapper, Reducer, Streamer), and the start (main).
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

// ---------------------------------------------------------------- frames

// Move stdin and stdout to private descriptors and return a Wire on them.  What the user's code
// writes then goes to stderr, and a read of stdin finds its end.  A file that is opened gets the
// lowest free number, which is the one closed just before.
function openPrivateStreams() {
  const source = fs.openSync('/proc/self/fd/0', fs.constants.O_RDONLY);
  const target = fs.openSync('/proc/self/fd/1', fs.constants.O_WRONLY);
  fs.closeSync(0);
  fs.openSync('/dev/null', fs.constants.O_RDONLY);
  fs.closeSync(1);
  fs.openSync('/proc/self/fd/2', fs.constants.O_WRONLY | fs.constants.O_APPEND);
  return new Wire(source, target);
}

class Wire {
  constructor(source, target) {
    this.source = source;
    this.target = target;
    this.held = Buffer.allocUnsafe(CHUNK_BYTES);
    this.start = this.end = 0;
  }

  // Return the next frame, or null at the end.
  receive() {
    let at;
    while ((at = this.held.subarray(this.start, this.end).indexOf(NEWLINE)) < 0) {
      if (!this.fill()) {
        if (this.end > this.start) throw new Error('the input ended within a frame');
        return null;
      }
    }
    const head = this.held.toString('latin1', this.start, this.start + at).split(' ');
    this.start += at + 1;
    const [name, position, count, size] = [head[0], Number(head[1]), Number(head[2]), Number(head[3])];
    return { name, position, count, payload: this.take(size) };
  }

  fill() {
    this.held.copyWithin(0, this.start, this.end);
    this.end -= this.start;
    this.start = 0;
    const size = fs.readSync(this.source, this.held, this.end, this.held.length - this.end, null);
    this.end += size;
    return size > 0;
  }

  take(size) {
    const payload = Buffer.allocUnsafe(size);
    let done = this.held.copy(payload, 0, this.start, Math.min(this.end, this.start + size));
    this.start += done;
    while (done < size) {
      const got = fs.readSync(this.source, payload, done, size - done, null);
      if (!got) throw new Error('the input ended within a frame');
      done += got;
    }
    return payload;
  }

  send(name, position, count, ...payload) {
    const size = payload.reduce((sum, piece) => sum + piece.length, 0);
    this.write(Buffer.from(`${name} ${position} ${count} ${size}\n`, 'latin1'));
    payload.forEach((piece) => this.write(piece));
  }

  write(bytes) {
    for (let done = 0; done < bytes.length;) {
      done += fs.writeSync(this.target, bytes, done, bytes.length - done);
    }
  }

  // Write a frame whose payload is JSON.
  sendJson(name, position, facts) {
    this.send(name, position, 0, Buffer.from(JSON.stringify(facts)));
  }
}

// ---------------------------------------------------------------- output

// A buffer of bytes that grows.
class ByteBuffer {
  constructor() {
    this.bytes = Buffer.allocUnsafe(CHUNK_BYTES);
    this.size = 0;
  }

  room(size) {
    if (this.size + size > this.bytes.length) {
      const larger = Buffer.allocUnsafe(2 * (this.size + size));
      this.bytes.copy(larger, 0, 0, this.size);
      this.bytes = larger;
    }
  }

  // Append text or bytes; return the number of bytes.
  add(value) {
    let size;
    if (typeof value === 'string') {
      this.room(3 * value.length);
      size = this.bytes.write(value, this.size);
    } else {
      this.room(value.length);
      size = Buffer.from(value.buffer, value.byteOffset, value.length).copy(this.bytes, this.size);
    }
    this.size += size;
    return size;
  }

  addLength(number) {
    this.room(4);
    this.size = this.bytes.writeUInt32LE(number, this.size);
  }

  view() {
    return this.bytes.subarray(0, this.size);
  }
}

// Gathers what a function returns, in frames whose cuts depend on the data alone.
//
// A returned text consists of whole lines: a missing line end at its end is added.  With `always`,
// as for reducers, a line end is added to every returned text, also to an empty one.
class Output {
  constructor(wire, always, limit) {
    this.wire = wire;
    this.always = always;
    this.limit = limit;
    this.position = 0;
    this.text = new ByteBuffer();
    this.keyLengths = new ByteBuffer();
    this.valueLengths = new ByteBuffer();
    this.keys = new ByteBuffer();
    this.values = new ByteBuffer();
    this.clear();
  }

  clear() {
    this.count = 0;
    for (const each of [this.text, this.keyLengths, this.valueLengths, this.keys, this.values]) {
      each.size = 0;
    }
  }

  // Add what a function returned; return a promise if its items come asynchronously.
  add(result) {
    if (result === null || result === undefined) return undefined;
    if (typeof result === 'string' || result instanceof Uint8Array) {
      if (this.always) {
        this.addText(result);
        this.addText('\n');
      } else if (result.length) {
        this.addLine(result);
      }
    } else if (Array.isArray(result)) {
      for (const item of result) {
        if (!Array.isArray(item)) throw outputError(`an array with ${describeType(item)} in it`);
        this.addPair(item);
      }
    } else if (typeof result === 'object' && typeof result[Symbol.iterator] === 'function') {
      for (const item of result) this.addItem(item);
    } else if (typeof result === 'object' && typeof result[Symbol.asyncIterator] === 'function') {
      return this.addAll(result);
    } else {
      throw outputError(describeType(result));
    }
    return undefined;
  }

  async addAll(items) {
    for await (const item of items) this.addItem(item);
  }

  addItem(item) {
    if (Array.isArray(item)) {
      this.addPair(item);
      return;
    }
    this.addLine(checkScalar(item));
  }

  addLine(line) {
    this.addText(line);
    const last = line.length ? line[line.length - 1] : '';
    if (last !== '\n' && last !== NEWLINE) this.addText('\n');
  }

  addText(text) {
    if (!text.length) return;
    if (this.count) this.flush();
    this.text.add(text);
    if (this.text.size >= FLUSH_BYTES) this.flush();
  }

  addPair(pair) {
    if (pair.length !== 2) throw outputError(`an array of ${pair.length}`);
    const key = checkScalar(pair[0]);
    const value = checkScalar(pair[1]);
    if (this.text.size) this.flush();
    const [keySize, valueSize] = [this.keys.add(key), this.values.add(value)];
    if (keySize + valueSize > this.limit) {
      throw new RangeError(`a pair of ${keySize + valueSize} bytes: max_record_bytes is ${this.limit}`);
    }
    this.keyLengths.addLength(keySize);
    this.valueLengths.addLength(valueSize);
    this.count += 1;
    if (this.keys.size + this.values.size + 8 * this.count >= FLUSH_BYTES) this.flush();
  }

  flush() {
    if (this.text.size) {
      this.wire.send('text', this.position, 0, this.text.view());
    } else if (this.count) {
      this.wire.send('pairs', this.position, this.count, this.keyLengths.view(),
        this.valueLengths.view(), this.keys.view(), this.values.view());
    }
    this.clear();
  }
}

// Return a key, a value or a line as text or bytes; throw for other types.
function checkScalar(value) {
  if (typeof value === 'string' || value instanceof Uint8Array) return value;
  if (typeof value === 'number' || typeof value === 'bigint') return String(value);
  throw outputError(describeType(value));
}

function outputError(what) {
  return new TypeError('expected text, an array of [key, value] pairs, or an iterator of lines and '
    + `pairs, got ${what}`);
}

function describeType(value) {
  if (value === null || typeof value !== 'object') return `${value === null ? 'null' : typeof value}`;
  return value.constructor ? value.constructor.name : 'object';
}

function isPromise(value) {
  return value !== null && typeof value === 'object' && typeof value.then === 'function';
}

// ---------------------------------------------------------------- the roles

class Role {
  constructor(wire, work, begin, always) {
    this.wire = wire;
    this.limit = begin.max_record_bytes;
    this.call = work.call;
    this.final = work.final;
    this.output = new Output(wire, always, this.limit);
  }

  // Call the last hook and report the end.
  async end() {
    try {
      if (this.final) await this.output.add(await this.final());
    } catch (error) {
      fail(this.wire, 0, 'final', error, ' in the final hook');
      return;
    }
    this.output.flush();
    this.wire.send('ended', 0, 0);
  }
}

// By record format: parse a line to the function's arguments.
const RECORDS = {
  'uuid-json': (file, bytes, start, end) => {
    if (end - start < UUID_CHARS + 1 || bytes[start + UUID_CHARS] !== TAB) {
      throw new InvalidRecord('no TAB after 36 characters');
    }
    const at = start + UUID_CHARS;
    return [bytes.toString('utf8', start, at), file, JSON.parse(bytes.toString('utf8', at + 1, end))];
  },
  json: (file, bytes, start, end) => [file, JSON.parse(bytes.toString('utf8', start, end))],
  text: (file, bytes, start, end) => [file, bytes.toString('utf8', start, end)],
};

// Role map: one call per record.
class Mapper extends Role {
  constructor(wire, work, begin) {
    super(wire, work, begin, false);
    this.parse = RECORDS[begin.records];
    this.tally = null;
    this.isolatedLines = begin.careful;
    if (begin.careful) this.mapLine = this.mapLineAnnounced;
  }

  describePlace() {
    return this.tally ? ` at line ${this.tally.records}` : '';
  }

  async mapFile(position, payload) {
    const at = payload.indexOf(NEWLINE);
    const name = payload.subarray(at + 1);
    this.output.position = position;
    this.tally = { records: 0, mapped: 0, bad: 0, decoded_bytes: 0, sample: '' };
    const fd = fs.openSync(Buffer.concat([Buffer.from(`${HOME}/`), name]), 'r');
    try {
      await this.mapLines(fd, position, name.toString());
    } finally {
      fs.closeSync(fd);
    }
    this.output.flush();
    this.wire.sendJson('done', position, this.tally);
  }

  async mapLines(fd, position, file) {
    let bytes = Buffer.allocUnsafe(CHUNK_BYTES);
    let held = 0; // bytes of an incomplete line
    let begun = false; // whether a byte order mark at the beginning has been dropped
    let dropped = 0; // bytes of a line that is too long to be held
    let next = Date.now() + PROGRESS_MS;
    for (;;) {
      if (held === bytes.length) bytes = Buffer.concat([bytes], 2 * held);
      const size = fs.readSync(fd, bytes, held, bytes.length - held, null);
      if (!size) break;
      this.tally.decoded_bytes += size;
      let end = held + size;
      const prefix = bytes.subarray(0, Math.min(end, BYTE_ORDER_MARK.length));
      if (!begun && end < BYTE_ORDER_MARK.length && BYTE_ORDER_MARK.subarray(0, end).equals(prefix)) {
        held = end;
        continue;
      }
      if (!begun && prefix.equals(BYTE_ORDER_MARK)) {
        bytes.copyWithin(0, BYTE_ORDER_MARK.length, end);
        end -= BYTE_ORDER_MARK.length;
        held = 0;
      }
      begun = true;
      const chunk = bytes.subarray(0, end);
      const last = chunk.lastIndexOf(NEWLINE) + 1;
      if (last > held) {
        const sound = isUtf8(chunk.subarray(0, last));
        let start = 0;
        for (let at = held; start < last; at = start) {
          const stop = chunk.indexOf(NEWLINE, at);
          const length = dropped + stop - start;
          if (length > this.limit) {
            this.addLongLine(length);
          } else {
            const pending = this.mapLine(file, chunk, start, stop, sound);
            if (pending) await pending;
          }
          dropped = 0;
          start = stop + 1;
        }
        bytes.copyWithin(0, last, end);
      }
      held = end - last;
      if (dropped + held > this.limit) {
        dropped += held;
        held = 0;
      }
      if (Date.now() >= next) {
        next = Date.now() + PROGRESS_MS;
        this.wire.send('progress', position, this.tally.decoded_bytes);
      }
    }
    if (dropped) this.addLongLine(dropped + held);
    else if (held) await this.mapLine(file, bytes, 0, held, false);
  }

  addLongLine(length) {
    this.tally.records += 1;
    this.addBadRecord(new InvalidRecord(`${length} bytes, more than max_record_bytes (${this.limit})`));
  }

  // Map one line; return a promise if its output comes asynchronously.
  mapLine(file, bytes, start, end, sound) {
    this.tally.records += 1;
    let words;
    try {
      if (!sound && !isUtf8(bytes.subarray(start, end))) throw new InvalidRecord('not UTF-8');
      words = this.parse(file, bytes, start, end);
    } catch (error) {
      this.addBadRecord(error);
      return undefined;
    }
    const result = this.call(...words);
    const pending = isPromise(result)
      ? result.then((value) => this.output.add(value))
      : this.output.add(result);
    this.tally.mapped += 1;
    return pending;
  }

  // Map one line and report it before and after its call; skip isolated lines.
  mapLineAnnounced(file, bytes, start, end, sound) {
    const number = this.tally.records + 1;
    const position = this.output.position;
    if (this.isolatedLines.includes(number)) {
      this.tally.records = number;
      this.addBadRecord(new InvalidRecord('the program died of it'));
      return undefined;
    }
    this.wire.send('at', position, number, Buffer.from(bytes.subarray(start, end)));
    const pending = Mapper.prototype.mapLine.call(this, file, bytes, start, end, sound);
    const after = () => this.wire.send('at', position, 0);
    return pending ? pending.then(after) : after();
  }

  addBadRecord(error) {
    this.tally.bad += 1;
    // Never the record's content.
    const reason = error instanceof InvalidRecord ? error.message : error.constructor.name;
    if (!this.tally.sample) this.tally.sample = `line ${this.tally.records}: ${reason}`;
  }
}

// Iterates over the rows of a `pairs` frame.
class Rows {
  constructor(payload, count) {
    this.payload = payload;
    this.count = count;
    this.ascii = isAscii(payload.subarray(8 * count));
    this.row = 0;
    this.keyAt = 8 * count;
    this.valueAt = this.keyAt;
    for (let row = 0; row < count; row += 1) this.valueAt += payload.readUInt32LE(4 * row);
  }

  // Go to the next row; return false at the end.
  next() {
    if (this.row === this.count) return false;
    const keyEnd = this.keyAt + this.payload.readUInt32LE(4 * this.row);
    const valueEnd = this.valueAt + this.payload.readUInt32LE(4 * (this.count + this.row));
    this.key = this.payload.latin1Slice(this.keyAt, keyEnd); // one character per byte
    this.valueStart = this.valueAt;
    [this.keyAt, this.valueAt] = [keyEnd, valueEnd];
    this.row += 1;
    return true;
  }

  value() {
    return decodeText(this.payload, this.valueStart, this.valueAt, this.ascii, 'a value');
  }
}

function decodeText(bytes, start, end, ascii, what) {
  if (!ascii && !isUtf8(bytes.subarray(start, end))) {
    throw new TypeError(`${what} is not UTF-8, which a string of JavaScript cannot hold`);
  }
  return bytes.toString('utf8', start, end);
}

function decodeKey(key) {
  const bytes = Buffer.from(key, 'latin1');
  return decodeText(bytes, 0, bytes.length, false, 'a key');
}

function quoteKey(key) {
  return JSON.stringify(Buffer.from(key, 'latin1').toString()).slice(0, 200);
}

// Roles reduce and combine: one call per key, with an array.
class Reducer extends Role {
  constructor(wire, work, begin) {
    super(wire, work, begin, true);
    this.memory = begin.memory;
    this.clear();
  }

  clear() {
    this.key = null; // one character per byte
    this.values = [];
    this.groups = 0;
    this.rows = 0;
    this.size = 0;
  }

  describePlace() {
    return this.key === null ? '' : ` at key ${quoteKey(this.key)}`;
  }

  async reducePairs(payload, count) {
    const rows = new Rows(payload, count);
    while (rows.next()) {
      if (rows.key !== this.key) {
        await this.closeGroup();
        this.key = rows.key;
        this.values = [];
        this.size = 0;
      }
      const value = rows.value();
      this.values.push(value);
      this.size += value.length + VALUE_OVERHEAD_BYTES;
      if (this.memory && this.size > this.memory) {
        throw new TooLarge(`the values of key ${quoteKey(this.key)}`);
      }
    }
    this.rows += count;
  }

  async closeGroup() {
    if (this.key === null) return;
    this.groups += 1;
    await this.output.add(await this.call(decodeKey(this.key), this.values));
  }

  async flush() {
    await this.closeGroup();
    this.output.flush();
    this.wire.send('flushed', this.groups, this.rows);
    this.clear();
  }
}

// Roles reduce and combine with `stream: true`: the values are an iterator over the frames.
class Streamer extends Reducer {
  async reducePairs(payload, count) {
    this.source = new Rows(payload, count);
    this.rows += count;
    let more = this.advance();
    while (more) {
      this.key = this.source.key;
      this.groups += 1;
      const values = this.group(this.key);
      await this.output.add(await this.call(decodeKey(this.key), values));
      values.return(); // an iterator that the user keeps is at its end
      while ((more = this.source !== null) && this.source.key === this.key) this.advance();
    }
    this.key = null;
    await this.flush();
  }

  * group(key) {
    while (this.source !== null && this.source.key === key) {
      const value = this.source.value();
      this.advance();
      yield value;
    }
  }

  // Go to the next row, of this frame or a later one; return false at the flush.
  advance() {
    while (!this.source.next()) {
      const frame = this.wire.receive();
      if (frame.name === 'flush') {
        this.source = null;
        return false;
      }
      this.source = new Rows(frame.payload, frame.count);
      this.rows += frame.count;
    }
    return true;
  }
}

// ---------------------------------------------------------------- start

// Load the script and return the function to call and its last hook.
async function load(begin) {
  const script = path.join(HOME, begin.script);
  process.argv = [process.argv[0], script, ...begin.arguments];
  let found;
  try {
    found = await import(pathToFileURL(script).href);
  } catch (error) {
    if (error.code !== 'ERR_UNKNOWN_FILE_EXTENSION') throw error;
    found = { default: require(script) };
  }
  const named = (name) => {
    const value = name && (found[name] || (found.default && found.default[name]));
    return typeof value === 'function' ? value : null;
  };
  const call = begin.functions.map(named).find(Boolean)
    || (typeof found.default === 'function' ? found.default : null);
  if (!call) throw new Error(`${begin.script} exports no function ${begin.functions.join(' or ')}`);
  const init = named(begin.init);
  if (init) await init();
  return { call, final: named(begin.final) };
}

function fail(wire, position, kind, error, where) {
  let message = 'an error that cannot be shown';
  let trace = '';
  try {
    message = error instanceof Error ? `${error.name}: ${error.message}` : `a thrown ${String(error)}`;
    const lines = String((error && error.stack) || '').split('\n');
    trace = lines.filter((line) => !line.includes(__filename)).join('\n');
  } catch { /* the user's error object throws itself: keep the defaults */ }
  wire.sendJson('failed', position, {
    kind, message: message.slice(0, MESSAGE_CHARS) + where, trace: trace.slice(0, TRACE_CHARS),
  });
}

async function answer(role, frame) {
  switch (frame.name) {
    case 'file': return role.mapFile(frame.position, frame.payload);
    case 'pairs': return role.reducePairs(frame.payload, frame.count);
    case 'flush': return role.flush();
    case 'end': return role.end();
    default: return undefined;
  }
}

async function main() {
  const wire = openPrivateStreams();
  wire.sendJson('hello', 0, { codecs: ['none'] });
  let frame = wire.receive();
  if (frame === null) return;
  const begin = JSON.parse(frame.payload);
  let work;
  try {
    work = await load(begin);
  } catch (error) {
    fail(wire, 0, 'load', error, '');
    return;
  }
  const Kind = begin.role === 'map' ? Mapper : begin.stream ? Streamer : Reducer;
  const role = new Kind(wire, work, begin);
  while ((frame = wire.receive()) !== null) {
    try {
      await answer(role, frame);
    } catch (error) {
      const where = role.describePlace();
      role.output.clear();
      if (error instanceof TooLarge) {
        wire.sendJson('failed', frame.position, { kind: 'memory', message: error.message, trace: '' });
      } else {
        fail(wire, frame.position, 'raised', error, where);
      }
    }
    await new Promise(setImmediate); // lets the user's pending promises and timers run
  }
}

main().then(() => process.exit());
