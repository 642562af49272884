// A line of the combined log format; it travels with the mapper, as every .js file beside it does.
'use strict';
const LINE = /^\S+ \S+ \S+ \[[^\]]*\] "[A-Z]+ ([^ "?]*)[^"]*" (\d{3}) (\d+|-) /;

exports.parse = function parse(line) {
  const match = LINE.exec(line);
  return match && { page: match[1], status: match[2], size: Number(match[3]) || 0 };
};
