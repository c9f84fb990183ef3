//! Completion of the command line by shells: scripts made of the one definition of it, and names of stored images.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::shells;

use super::Cli;

#[doc = concat!("`completions`.")]
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum, required_unless_present = "images")]
    pub shell: Option<Shell>,
    /// Print the names of stored images, which the scripts ask for
    #[arg(long, hide = true, conflicts_with = "shell")]
    pub images: bool,
}

/// Shells that complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash 4 or later.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// After verbs of these names stored images are offered, besides files.
const VERBS: [&str; 7] = ["run", "exec", "shell", "spec", "inspect", "rmi", "push"];

/// The script.
#[must_use]
pub fn script(shell: Shell) -> String {
    let mut command = Cli::command();
    let mut script = Vec::new();
    // Each by its type: the enum of all would bring in generators that nobody asks for.
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, "coracle", &mut script),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, "coracle", &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, "coracle", &mut script),
    }
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + &bash(),
        Shell::Zsh => zsh(&script),
        Shell::Fish => script + &fish(),
    }
}

/// Bash takes a colon for the end of a word, so of a name with one only what follows is replaced.
fn bash() -> String {
    format!(
        r#"
_coracle_with_images() {{
    _coracle "$@"
    case "${{COMP_WORDS[1]}}" in
        {verbs}) ;;
        *) return ;;
    esac
    local word="${{COMP_LINE:0:COMP_POINT}}" name
    word="${{word##*[[:space:]]}}"
    case "$word" in -*) return ;; esac
    # Words of options are of no use there, whereas files are.
    COMPREPLY=()
    while IFS= read -r name; do
        if [[ "$name" == "$word"* ]]; then
            if [[ "$word" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
                name="${{name#"${{word%:*}}:"}}"
            fi
            COMPREPLY+=("$name")
        fi
    done < <("$1" completions --images 2>/dev/null)
    if [[ ${{#COMPREPLY[@]}} -eq 0 ]]; then
        compopt -o default 2>/dev/null
    else
        while IFS= read -r name; do
            COMPREPLY+=("$name")
        done < <(compgen -f -- "$word")
    fi
}}
complete -F _coracle_with_images -o bashdefault -o default coracle
"#,
        verbs = VERBS.join("|")
    )
}

/// The words after an option's verb are the image and what the program gets.
fn zsh(script: &str) -> String {
    let mut verb = "";
    let mut lines = String::new();
    for line in script.lines() {
        if let Some(name) = line.trim().strip_prefix('(').and_then(|line| line.strip_suffix(')')) {
            verb = VERBS.into_iter().find(|verb| *verb == name).unwrap_or_default();
        }
        let positional = line.starts_with("'*:") || line.starts_with("':image");
        match line.strip_suffix(":_default' \\").or_else(|| line.strip_suffix(":_files' \\")) {
            Some(start) if positional && !verb.is_empty() => lines += &format!("{start}:_coracle_images' \\\n"),
            _ => lines += &format!("{line}\n"),
        }
    }
    let function = "(( $+functions[_coracle_images] )) ||\n_coracle_images() {\n    local -a names\n    \
                    names=(${(f)\"$(_call_program images coracle completions --images 2>/dev/null)\"})\n    \
                    _alternative 'images:image:compadd -a names' 'files:file:_files'\n}\n\n";
    match lines.find("if [ \"$funcstack[1]\"") {
        Some(at) => lines.insert_str(at, function),
        None => lines += function,
    }
    lines
}

fn fish() -> String {
    format!(
        "complete -c coracle -n \"__fish_seen_subcommand_from {}\" -a \"(coracle completions --images 2>/dev/null)\" -d \"stored image\"\n",
        VERBS.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_options_and_ask_for_images() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["cleanenv", "writable-tmpfs", "prune", "completions --images"] {
                assert!(script.contains(word), "{shell:?}: {word}");
            }
        }
        let zsh = script(Shell::Zsh);
        assert!(zsh.matches(":_coracle_images").count() >= VERBS.len(), "{zsh}");
    }
}
