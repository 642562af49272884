"""Mistakes of users and odd inputs, as data: a module for each subject.

A module has

* ``SUBJECT``: its heading,
* ``CASES``: values of ``bad_input.Case``,
* ``FIXTURES`` (optional): names of fixtures that its cases need, such as ``s3``,
* ``prepare(user)`` (optional): called before each case,
* ``check(user, outcome)`` (optional): called after each case, for what holds for all of them.

``tests/system/bad_input/test_bad_input.py`` runs them all.
"""
