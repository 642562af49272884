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
