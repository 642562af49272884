"""Return the operating system of a ping and a 1."""


def mapper(uuid, file, js):
    return js["info"]["OS"] + " 1\n"
