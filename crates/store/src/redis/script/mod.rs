//! The texts of the scripts, put together from whole files.
//!
//! The script about one record is the clock, the head, the short way and the long way. The script
//! about many records has the same short way as the body of a function; what does not go that way is
//! called on its own.

use super::call::ScriptCall;
use redis::Cmd;

/// The text of the script about one record; for measuring the server alone.
pub const SOURCE: &str = concat!(
    include_str!("clock.lua"),
    include_str!("head.lua"),
    "local key, at = KEYS[1], 0\n",
    include_str!("short.lua"),
    include_str!("read.lua"),
    include_str!("write.lua"),
    include_str!("acquire.lua"),
    include_str!("ends.lua"),
    include_str!("look.lua"),
);

const CLOCK: &str = include_str!("clock.lua");
const HEAD: &str = include_str!("head.lua");
const SHORT_WAY: &str = include_str!("short.lua");
const EACH: &str = include_str!("each.lua");
const LEDGER: &str = include_str!("ledger.lua");
const WHOLE: &str = include_str!("whole.lua");
const LOCK: &str = include_str!("lock.lua");

/// A script's text and the name that the server has for it.
pub(super) struct Text {
    source: String,
    sha: String,
}

impl Text {
    fn new(source: String) -> Text {
        let sha = redis::Script::new(&source).get_hash().to_owned();
        Text { source, sha }
    }

    /// The call as it is normally sent.
    pub fn by_name(&self, call: &ScriptCall) -> Cmd {
        Text::command("EVALSHA", &self.sha, call)
    }

    /// The call for a server that does not know the script (any more); it does afterwards.
    pub fn by_source(&self, call: &ScriptCall) -> Cmd {
        Text::command("EVAL", &self.source, call)
    }

    /// The start of a call about so many records, by name or by source, with room for so many
    /// arguments and bytes of arguments.
    pub fn start(&self, by_source: bool, records: usize, room: (usize, usize)) -> Cmd {
        if by_source {
            Text::starting("EVAL", &self.source, records, room)
        } else {
            Text::starting("EVALSHA", &self.sha, records, room)
        }
    }

    fn starting(name: &str, script: &str, records: usize, room: (usize, usize)) -> Cmd {
        let size = name.len() + script.len() + room.1 + 4;
        let mut command = Cmd::with_capacity(room.0 + 3, size);
        command.arg(name);
        command.arg(script).arg(records);
        command
    }

    fn command(name: &str, script: &str, call: &ScriptCall) -> Cmd {
        let keys = 1 + call.beside.len();
        let mut command = Text::starting(name, script, keys, call.room());
        command.arg(call.key.as_ref());
        for key in &call.beside {
            command.arg(key.as_ref());
        }
        for argument in &call.arguments {
            command.arg(argument.as_ref());
        }
        command
    }
}

/// The scripts of one kind of server.
pub(super) struct Scripts {
    /// Refused by a server that is out of memory, as soon as it writes.
    pub normal: Text,
    /// Allowed to write all the same: for what ends an execution, which must get through.
    pub at_any_cost: Text,
    /// For many records at once, where there is such a script.
    pub together: Option<Text>,
    /// About what a tenant has.
    pub ledger: Text,
    /// About whole records.
    pub whole: Text,
}

impl Scripts {
    /// About records.
    pub fn new() -> Scripts {
        Scripts::on(CLOCK)
    }

    /// Of a node of the guard.
    pub fn lock() -> Scripts {
        Scripts::of(LOCK.to_owned(), None, CLOCK)
    }

    /// The same table on a clock that a test moves: the text of its time is another one.
    #[cfg(feature = "contract")]
    pub fn on_the_clock_at(key: &str) -> Scripts {
        Scripts::on(&format!(
            "local now = tonumber(redis.call('GET', '{key}'))\n"
        ))
    }

    fn on(clock: &str) -> Scripts {
        Scripts::of(about_one(clock), Some(about_many(clock)), clock)
    }

    fn of(normal: String, together: Option<String>, clock: &str) -> Scripts {
        Scripts {
            at_any_cost: Text::new(format!("#!lua flags=allow-oom\n{normal}")),
            normal: Text::new(normal),
            together: together.map(Text::new),
            ledger: Text::new([clock, LEDGER].concat()),
            whole: Text::new(WHOLE.to_owned()),
        }
    }
}

fn about_one(clock: &str) -> String {
    let rest = SOURCE.strip_prefix(CLOCK).unwrap_or(SOURCE);
    [clock, rest].concat()
}

fn about_many(clock: &str) -> String {
    let step = [
        "local function step(key, at)\n",
        SHORT_WAY,
        "return false\nend\n",
    ]
    .concat();
    [clock, HEAD, &step, EACH].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_scripts_have_the_same_short_way() {
        for text in [about_one(CLOCK), about_many(CLOCK)] {
            assert_eq!(text.matches(SHORT_WAY).count(), 1);
            assert!(text.starts_with(CLOCK));
        }
        // It works only on what it is given, also among other records.
        assert!(!SHORT_WAY.contains("ARGV[1]") && !SHORT_WAY.contains("KEYS"));
    }

    #[test]
    #[cfg(feature = "contract")]
    fn the_clock_of_a_test_is_the_only_one() {
        let scripts = Scripts::on_the_clock_at("c");
        let together = scripts.together.unwrap();
        for text in [&scripts.normal, &scripts.ledger, &together] {
            assert!(text.source.contains("redis.call('GET', 'c')"));
            assert!(!text.source.contains("redis.call('TIME')"));
        }
    }
}
