// node reducer.js: a reduce task, as in 2014.
require('./start.js')('reduce');
