"""Start: the streams are closed to the user's code, the script is loaded, frames are served."""

import gc
import importlib.machinery
import importlib.util
import json
import os
import pickle
import sys

from .common import GC_THRESHOLD, HOME, READ_BYTES, TooLarge
from .decoding import DECODED_LIMITS, OPENERS, REFUSED, read_chunks
from .messages import Wire, send_failure
from .records import TooLongLine, split_lines
from .roles import Mapper, Reducer, Streamer


def load(begin):
    """Return the user's function, from a script or a pickle, and the object with its hooks."""
    script = begin["script"]
    sys.argv = [script] + begin["arguments"]
    sys.path.insert(0, HOME)
    if begin["pickled"]:
        with open(script, "rb") as stream:
            function = pickle.load(stream)
            return function, function
    spec = make_spec(script)  # a process that multiprocessing starts finds it under this name, too
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    for function in begin["functions"]:
        if hasattr(module, function):
            return getattr(module, function), module
    raise AttributeError(f"{script} has no function {' or '.join(begin['functions'])}")


def make_spec(script):
    """Return how to import the user's script, whatever its file name is."""
    name = os.path.splitext(os.path.basename(script))[0].replace(".", "_")
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(HOME, script))
    return importlib.util.spec_from_file_location(name, loader=loader)


class ScriptFinder:
    """Finds the user's script if Python itself does not find its file name."""

    def find_spec(self, name, _path=None, _target=None):
        for file in os.listdir(HOME):
            if make_spec(file).name == name and os.path.isfile(os.path.join(HOME, file)):
                return make_spec(file)
        return None


def open_private_streams():
    """Move stdin and stdout to private descriptors and return a Wire on them.

    The user's prints then go to stderr, and a read of stdin finds its end.
    """
    source = os.fdopen(os.dup(0), "rb", READ_BYTES)
    target = os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)

    # Numbers instead of file objects: Python 3.8 and 3.9 crash at exit if a callback holds one.
    private = (source.fileno(), target.fileno())

    def detach_copy():  # a fork that the user's code makes must not write frames
        for number in private:
            os.dup2(nothing, number)

    os.register_at_fork(after_in_child=detach_copy)
    return Wire(source, CompleteWriter(target))


class CompleteWriter:
    """A raw stream whose write always writes everything."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[self.stream.write(view) :]


def make_role(wire, begin):
    """Load the script and return its role; None if it does not load."""
    DECODED_LIMITS.update(begin.get("most_decoded", {}))
    REFUSED.fill(begin.get("refused", []))
    try:
        function, home = load(begin)
        init = getattr(home, begin["init"], None)
        if init is not None:
            init()
    except (Exception, SystemExit) as error:  # sys.exit(main()) without a guard
        send_failure(wire, 0, "load", error)
        return None
    kind = Mapper if begin["role"] == "map" else Streamer if begin["stream"] else Reducer
    role = kind(wire, function, begin)
    if begin["final"]:
        role.final = getattr(home, begin["final"], None)
    return role


def main():
    wire = open_private_streams()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    wire.send_json("hello", 0, codecs=["none", *OPENERS])
    frame = wire.receive()
    role = make_role(wire, json.loads(frame[3])) if frame is not None else None
    if role is not None:
        serve(wire, role)
        sys.stdout.flush()


def serve(wire, role):
    """Answer frames to their end."""
    while (frame := wire.receive()) is not None:
        name, position, count, payload = frame
        try:
            if name == "file":
                role.map_file(position, payload)
            elif name == "pairs":
                role.reduce_pairs(payload, count)
            elif name == "flush":
                role.flush()
            elif name == "end":
                role.end()
        except TooLarge as error:
            wire.send_json("failed", position, kind="memory", message=str(error), trace="")
        except Exception as error:
            where = role.describe_place()
            role.output.clear()
            send_failure(wire, position, "raised", error, where)


class NullWire:
    """A wire that drops all frames."""

    def send(self, *_frame):
        pass

    send_json = send


def debug(path):
    """Call the function in the terminal, for the files that ``path`` names, under pdb."""
    import pdb  # noqa: T100 - its purpose
    import traceback

    with open(path) as stream:
        begin = json.load(stream)
    function, _ = load(begin)
    role = Mapper(NullWire(), function, begin)
    for name in begin["paths"]:
        chunks = read_chunks(name, "none", lambda _read: None)
        for number, line in enumerate(split_lines(chunks, role.limit), 1):
            if isinstance(line, TooLongLine):
                print(f"{name}, line {number}: set aside: {line.size:,} bytes")
                continue
            try:
                call = role.call(name, line)
            except (ValueError, RecursionError) as error:
                print(f"{name}, line {number}: set aside: {error}")
                continue
            try:
                if number == begin["stop_at"] and name == begin["paths"][0]:
                    print(f"{name}, line {number}: here the program died; s steps into it")
                    pdb.runcall(call)
                else:
                    result = call()
                    if hasattr(result, "__next__"):
                        list(result)  # a generator runs only when it is read
            except Exception:
                traceback.print_exc()
                print(f"{name}, line {number}")
                pdb.post_mortem()
                return 1
    print("no record made it fail")
    return 0


if __name__ == "__mp_main__":
    sys.meta_path.append(ScriptFinder())
elif __name__ == "__main__":
    if sys.argv[1:2] == ["--debug"]:
        sys.exit(debug(sys.argv[2]))
    main()
