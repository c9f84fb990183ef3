//! The terminal.

use std::io::IsTerminal;

use super::Check;

pub(super) fn check() -> Check {
    let name = "terminal";
    let terminals = [std::io::stdin().is_terminal(), std::io::stdout().is_terminal(), std::io::stderr().is_terminal()];
    if !terminals.contains(&true) {
        return Check::ok(name, "none: input and output are files or pipes");
    }
    match std::env::var("TERM") {
        Ok(kind) if !kind.is_empty() => Check::ok(name, kind),
        _ => Check::degraded(
            name,
            "TERM is not set: full-screen programs in containers do not know the terminal",
            "export TERM=xterm-256color, or what the terminal is",
        ),
    }
}
