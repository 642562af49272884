// Called with each line of the inputs: yields the page of a request, and a 1.
'use strict';

exports.mapper = function* mapper(file, visit) {
  yield [visit.page, 1];
};
