// node mapper.js KEY...: a map task, as in 2014.
require('./start.js')('map');
