//! What the server does beyond the least, each to be turned off alone: to be measured, or to force the fallback.

/// Words before a switch that turn it off.
const OFF: &str = "no-";

/// Switches of the server, with the word for each in [`parse`](Self::parse). All are on by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switches {
    /// `ttl`: the kernel may keep names and attributes for ever, else not at all.
    pub ttl: bool,
    /// `readdirplus`: listings bring attributes along.
    pub readdirplus: bool,
    /// `silent-open`: the kernel does not ask before it opens files and directories.
    pub no_open: bool,
    /// `cache-symlinks`: the kernel keeps link targets.
    pub cache_symlinks: bool,
    /// `push-fragments`: small files that were unpacked along with another one go to the page cache.
    pub push_fragments: bool,
    /// `push-rest`: so does what was unpacked along with the part of a block that was asked for.
    pub push_rest: bool,
    /// `readahead`: what follows in the image is unpacked and pushed while files are read in that order.
    pub readahead: bool,
    /// `spin`: the server looks for the next request for a short while before it sleeps.
    pub spin: bool,
    /// `expect`: what the program to be started needs first is unpacked while the launcher still mounts.
    pub expect: bool,
    /// `threads=N`: threads that answer requests; 0 takes as many as there are processors, but 2 to 4.
    pub threads: usize,
    /// `cache=BYTES`: instead of [`ServeOptions::cache_bytes`](super::ServeOptions::cache_bytes).
    pub cache_bytes: Option<usize>,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            ttl: true,
            readdirplus: true,
            no_open: true,
            cache_symlinks: true,
            push_fragments: true,
            push_rest: true,
            readahead: true,
            spin: true,
            expect: true,
            threads: 0,
            cache_bytes: None,
        }
    }
}

impl Switches {
    /// The same for a server that records: what the kernel is given unasked, it does not ask for.
    #[must_use]
    pub fn recording(self) -> Self {
        Self { push_fragments: false, push_rest: false, readahead: false, expect: false, ..self }
    }

    /// The environment variable for them.
    pub const VARIABLE: &str = "CORACLE_FUSE";

    /// Reads words separated by commas: a switch's word, that word after `no-`, or a word with a number.
    ///
    /// # Errors
    /// A sentence that names the word that is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut switches = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            switches.set(word)?;
        }
        Ok(switches)
    }

    /// Those that [`VARIABLE`](Self::VARIABLE) asks for.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    pub fn from_environment() -> Result<Self, String> {
        match std::env::var_os(Self::VARIABLE) {
            None => Ok(Self::default()),
            Some(text) => Self::parse(&text.to_string_lossy()),
        }
    }

    fn set(&mut self, word: &str) -> Result<(), String> {
        if let Some((name, number)) = word.split_once('=') {
            let number = number.parse().map_err(|_| format!("{}: {number:?} is not a number", Self::VARIABLE))?;
            match name {
                "threads" => self.threads = number,
                "cache" => self.cache_bytes = Some(number),
                _ => return Err(unknown(word)),
            }
            return Ok(());
        }
        let (name, on) = word.strip_prefix(OFF).map_or((word, true), |name| (name, false));
        let switch = match name {
            "ttl" => &mut self.ttl,
            "readdirplus" => &mut self.readdirplus,
            "silent-open" => &mut self.no_open,
            "cache-symlinks" => &mut self.cache_symlinks,
            "push-fragments" => &mut self.push_fragments,
            "push-rest" => &mut self.push_rest,
            "readahead" => &mut self.readahead,
            "spin" => &mut self.spin,
            "expect" => &mut self.expect,
            _ => return Err(unknown(word)),
        };
        *switch = on;
        Ok(())
    }
}

fn unknown(word: &str) -> String {
    let variable = Switches::VARIABLE;
    format!(
        "{variable}: {word:?} is no switch; there are ttl, readdirplus, silent-open, cache-symlinks, push-fragments, \
         push-rest, readahead, spin and expect, each also after no-, and threads=N and cache=BYTES"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_turns_its_switch() {
        assert_eq!(Switches::parse("").unwrap(), Switches::default());
        let off = "no-ttl,no-readdirplus,no-silent-open,no-cache-symlinks,no-push-fragments,no-push-rest,no-readahead,\
                   no-spin,no-expect,threads=1,cache=1000";
        let expected = Switches {
            ttl: false,
            readdirplus: false,
            no_open: false,
            cache_symlinks: false,
            push_fragments: false,
            push_rest: false,
            readahead: false,
            spin: false,
            expect: false,
            threads: 1,
            cache_bytes: Some(1000),
        };
        assert_eq!(Switches::parse(off).unwrap(), expected);
        assert_eq!(Switches::parse("no-spin, spin").unwrap(), Switches::default());
    }

    #[test]
    fn what_is_no_switch_is_named() {
        assert!(Switches::parse("spin,no-spun").unwrap_err().starts_with("CORACLE_FUSE: \"no-spun\" is no switch"));
        assert!(Switches::parse("speed=3").unwrap_err().contains("\"speed=3\" is no switch"));
        assert_eq!(Switches::parse("threads=two").unwrap_err(), "CORACLE_FUSE: \"two\" is not a number");
    }
}
