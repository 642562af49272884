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
