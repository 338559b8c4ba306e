// All tests in one process: `node test/all.js`.
import "./arguments.test.js";
import "./busy.test.js";
import "./connection.test.js";
import "./family.test.js";
import "./follower.test.js";
import "./limits.test.js";
import "./list.test.js";
import "./subscriptions.test.js";
import "./task.test.js";
import "./text.test.js";
import "./token.test.js";
import "./view.test.js";
