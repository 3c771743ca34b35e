//! The commands in groups, in the order in which somebody who is new needs them.

use clap::CommandFactory as _;

use super::CommandLine;

/// What belongs together. A command that stands nowhere is among the last.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Run it", &["serve", "check", "setup", "config", "reload", "healthcheck"]),
    ("See how it is", &["status", "page", "doctor", "why", "access"]),
    ("Images", &["images", "inspect", "history", "pull", "ready", "pin", "unpin", "freeze", "unfreeze", "forget"]),
    ("The store", &["gc", "verify", "export", "import", "store"]),
    ("The program", &["bench", "version", "completions", "man"]),
];

/// The program as it is typed, with its commands in groups.
pub(super) fn program() -> clap::Command {
    let program = CommandLine::command();
    let commands = grouped(&program);
    program.help_template(format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{commands}\nOptions:\n{{options}}{{after-help}}"
    ))
}

fn grouped(program: &clap::Command) -> String {
    let known: Vec<_> = program.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    let line = |command: &&clap::Command| {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        format!("  {:<12} {about}\n", command.get_name())
    };
    let is_grouped = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let (last, groups) = (GROUPS.len() - 1, GROUPS.iter().enumerate());
    let group = |(place, (heading, names)): (usize, &(&str, &[&str]))| {
        let named = names.iter().filter_map(|name| known.iter().find(|command| command.get_name() == *name));
        let others = known.iter().filter(|command| place == last && !is_grouped(command.get_name()));
        format!("{heading}:\n{}", named.chain(others).map(line).collect::<String>())
    };
    groups.map(group).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_command_once_and_serve_first() {
        let help = program().render_help().to_string();
        for command in CommandLine::command().get_subcommands() {
            let starts = format!("  {} ", command.get_name());
            assert_eq!(help.lines().filter(|line| line.starts_with(&starts)).count(), 1, "{starts}{help}");
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&about), "{about}");
        }
        let first = help.lines().find(|line| line.starts_with("  ")).expect("commands");
        assert!(first.starts_with("  serve ") && help.contains("\nImages:\n") && help.contains("--color"), "{help}");
    }
}
