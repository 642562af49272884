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
