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
