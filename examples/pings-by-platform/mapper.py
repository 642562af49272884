"""Called with each ping: its operating system and a 1."""


def mapper(uuid, file, js):
    return js["info"]["OS"] + " 1\n"
