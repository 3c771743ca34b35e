//! `registry-mirror completions` and `man`: what shells and manuals want to know about the commands.

use std::io;
use std::path::{Path, PathBuf};

use super::{Exit, help};
use crate::documents::{Code, Error};

/// What the shells know the program by.
const NAME: &str = "registry-mirror";

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// A folder for one page per command. Without it: the main page on stdout
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn completions(args: &Completions) -> Result<Exit, Error> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut help::program(), NAME, &mut text);
    let text = String::from_utf8_lossy(&text);
    let text = match args.shell {
        // clap_complete 4.6 takes the hyphen in our name for the step to a command there, and finds no options.
        clap_complete::Shell::Bash => text.replace("registry__subcmd__mirror", "registry__mirror") + &asking_in_bash(),
        clap_complete::Shell::Zsh => for_zsh(&text),
        clap_complete::Shell::Fish => for_fish(&text),
        _ => text.into_owned(),
    };
    io::Write::write_all(&mut io::stdout().lock(), text.as_bytes())
        .map_err(|error| Error::new(Code::Write, format!("standard output cannot be written: {error}")))?;
    Ok(Exit::Done)
}

/// What the running daemon knows by name; nothing where none runs.
const IMAGES: &str = "registry-mirror images --names 2>/dev/null";
const UPSTREAMS: &str = "registry-mirror status --names 2>/dev/null";

/// The commands that take images.
fn taking_images() -> String {
    let is_image = |argument: &&clap::Arg| argument.get_value_names().is_some_and(|names| names == ["IMAGE"]);
    let takes = |command: &&clap::Command| command.get_positionals().any(|argument| is_image(&argument));
    help::program().get_subcommands().filter(takes).map(clap::Command::get_name).collect::<Vec<_>>().join(" ")
}

/// Images and upstreams, where they are wanted. The shell takes a colon for the end of a word: what stands in front of
/// the last one is not offered again.
fn asking_in_bash() -> String {
    const SCRIPT: &str = r#"
_registry_mirror_asking() {
    _registry__mirror "$@"
    local typed=${COMP_WORDS[*]:1:COMP_CWORD} word offered
    typed=${typed// : /:}; typed=${typed// :/:}; word=${typed##* }
    case " TAKING " in *" ${COMP_WORDS[1]} "*) ;; *) [[ ${COMP_WORDS[COMP_CWORD-1]} == --upstream ]] || return 0 ;; esac
    if [[ ${COMP_WORDS[COMP_CWORD-1]} == --upstream ]]; then offered=$(UPSTREAMS)
    elif [[ $word != -* ]]; then offered=$(IMAGES)
    else return 0; fi
    local IFS=$'\n' found
    for found in $(compgen -W "$offered" -- "$word"); do
        [[ $word == *:* ]] && found=${found#"${word%:*}:"}
        COMPREPLY+=("$found")
    done
}
complete -F _registry_mirror_asking -o bashdefault -o default registry-mirror
"#;
    SCRIPT.replace("TAKING", &taking_images()).replace("UPSTREAMS", UPSTREAMS).replace("IMAGES", IMAGES)
}

/// It ends options where the names of images begin. Images and upstreams are those of the daemon.
fn for_zsh(text: &str) -> String {
    let asked = |line: &str| match line.trim_start_matches(['\'', '*', ':']) {
        image if image.starts_with("image") => line.replace(":_default'", ":_registry_mirror_images'"),
        option if option.starts_with("--upstream=") => line.replace(":_default'", ":_registry_mirror_upstreams'"),
        _ => line.to_owned(),
    };
    let text: String = text.replace("'*::", "'*:").lines().map(|line| asked(line) + "\n").collect();
    let offer = |name: &str, command: &str| {
        format!("_registry_mirror_{name}() {{ local -a found; found=(${{(f)\"$({command})\"}}); compadd -a found }}\n")
    };
    let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
    format!("{head}\n{}{}{rest}", offer("images", IMAGES), offer("upstreams", UPSTREAMS))
}

/// It is made to see an option that still wants its value, and what commands take beside options.
fn for_fish(text: &str) -> String {
    const PARSED: &str = "argparse -s (__fish_registry_mirror_global_optspecs) -- $cmd";
    let text = text.replace(
        &format!("{PARSED} 2>/dev/null\n"),
        &format!("{PARSED} 2>/dev/null\n    or {PARSED} value 2>/dev/null\n"),
    );
    let images = format!(
        "complete -c {NAME} -n \"__fish_seen_subcommand_from {}\" -f -a \"(command -q {NAME}; and {IMAGES})\"\n\
         complete -c {NAME} -n \"__fish_seen_subcommand_from doctor\" -l upstream -x -a \"(command -q {NAME}; and {UPSTREAMS})\"\n",
        taking_images()
    );
    text + &values_for_fish(&help::program()) + &images
}

/// Lines that offer the values of what commands take beside options, until one of them stands there.
fn values_for_fish(program: &clap::Command) -> String {
    let mut lines = String::new();
    for command in program.get_subcommands() {
        for argument in command.get_positionals() {
            let values: Vec<_> = argument.get_possible_values();
            let values = values.iter().map(|value| value.get_name()).collect::<Vec<_>>().join(" ");
            if !values.is_empty() {
                let here = format!("__fish_registry_mirror_using_subcommand {}", command.get_name());
                let place = format!("{here}; and not __fish_seen_subcommand_from {values}");
                lines += &format!("complete -c {NAME} -n \"{place}\" -f -a \"{values}\"\n");
            }
        }
    }
    lines
}

pub(super) fn man(args: &Man) -> Result<Exit, Error> {
    let written = match &args.folder {
        Some(folder) => pages(folder),
        None => page(help::program(), "").and_then(|page| io::Write::write_all(&mut io::stdout().lock(), &page)),
    };
    written.map_err(|error| Error::new(Code::Write, format!("the manual cannot be written: {error}")))?;
    Ok(Exit::Done)
}

/// A page for each command and each command of a command, and that of the file.
fn pages(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut program = help::program().disable_help_subcommand(true);
    program.build();
    let mut open = vec![(program, String::new())];
    while let Some((command, path)) = open.pop() {
        let below = |command: &clap::Command| format!("{path} {}", command.get_name()).trim().to_owned();
        open.extend(command.get_subcommands().map(|command| (command.clone(), below(command))));
        let name = std::iter::once(NAME).chain(path.split_whitespace()).collect::<Vec<_>>().join("-");
        std::fs::write(folder.join(format!("{name}.1")), page(command, &path)?)?;
    }
    std::fs::write(folder.join("mirror.toml.5"), page_of_settings())
}

/// The page of a command, with its examples and its files; that of the program has them all.
fn page(command: clap::Command, path: &str) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let files = files_of(&command, path);
    clap_mangen::Man::new(command).render(&mut page)?;
    let examples = EXAMPLES.iter().find(|(of, _)| *of == path).map(|(_, examples)| *examples).unwrap_or_default();
    let mut more = String::new();
    if !examples.is_empty() {
        more += ".SH EXAMPLES\n";
        more.extend(examples.iter().map(|(line, does)| format!(".TP\n{}\n{}\n", roff(line), roff(does))));
    }
    if !files.is_empty() {
        more += ".SH FILES\n";
        more.extend(files.iter().map(|(file, is)| format!(".TP\n{}\n{}\n", roff(file), roff(is))));
    }
    if path.is_empty() {
        more += ".SH ENVIRONMENT\n.TP\nREGISTRY_MIRROR_SECTION_KEY\n";
        more += "Overrides a key of the file, such as REGISTRY_MIRROR_STORE_PATH; flags override both.\n";
        more += ".TP\nNO_COLOR\nIf set, nothing is coloured unless \\-\\-color asks for it.\n";
        more += REFERENCE;
    }
    page.extend(more.into_bytes());
    Ok(page)
}

/// The files that a command reads or writes, besides those that it is given.
fn files_of(command: &clap::Command, path: &str) -> Vec<(&'static str, &'static str)> {
    let takes = |name: &str| command.get_arguments().any(|argument| argument.get_id() == name);
    let is_meant = |(file, _): &&(&str, &str)| match *file {
        _ if path.is_empty() => true,
        SOCKET => takes("admin"),
        file if file.starts_with("/var/lib/") => path == "setup",
        file if file.starts_with("STORE") || file.contains(".cache") => path == "serve" || takes("store"),
        _ => takes("config"),
    };
    FILES.iter().filter(is_meant).copied().collect()
}

/// The page of mirror.toml: the example, which has every key with its default and what it means.
fn page_of_settings() -> String {
    let lines: String = SETTINGS.lines().map(|line| format!("{}\n", roff(line))).collect();
    format!(
        ".TH mirror.toml 5 \"\" \"{NAME} {}\"\n.SH NAME\nmirror.toml \\- the configuration of {}\n\
         .SH DESCRIPTION\nEvery key is optional. What follows is a whole file with all defaults.\n.PP\n.nf\n{lines}.fi\n\
         .SH SEE ALSO\n{}(1); {} shows what is in force.\n",
        env!("CARGO_PKG_VERSION"),
        roff(NAME),
        roff(NAME),
        roff("registry-mirror config show --origin"),
    )
}

/// A line as it stands there: nothing in it is an order for the typesetter.
fn roff(line: &str) -> String {
    let escaped = line.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

/// Examples of commands, with what they do: for the manual, and a test types them.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("registry-mirror serve", "Run the mirror on 127.0.0.1:5000, without a file."),
            ("registry-mirror doctor", "Say what is wrong with it and all that it needs, and what to do."),
            ("registry-mirror status --watch", "Look at it go."),
        ],
    ),
    (
        "serve",
        &[
            ("registry-mirror serve --max-size 200GB", "Hold at most 200 GB."),
            (
                "registry-mirror serve -c /etc/registry-mirror/mirror.toml --offline",
                "Serve what is stored, and ask nobody.",
            ),
        ],
    ),
    (
        "doctor",
        &[
            ("registry-mirror doctor --upstream docker.io", "From the name of Docker Hub to the pulls that are left."),
            ("registry-mirror doctor --bundle report.tar", "Write a report without secrets, to be handed on."),
        ],
    ),
    (
        "setup",
        &[
            ("registry-mirror setup docker", "Show what would change for docker, and write nothing."),
            ("registry-mirror setup podman --apply --for docker.io --for ghcr.io", "Write it, for two registries."),
            ("registry-mirror setup podman --check", "See that an image comes through the mirror."),
            ("registry-mirror setup podman --undo", "Make the files what they were."),
        ],
    ),
    ("check", &[("registry-mirror check mirror.toml", "Would serve start with this file?")]),
    ("config show", &[("registry-mirror config show --origin", "What is in force, and who says so?")]),
    ("config schema", &[("registry-mirror config schema", "The JSON Schema of the file, for an editor.")]),
    ("config paths", &[("registry-mirror config paths", "Where is the file looked for?")]),
    ("reload", &[("registry-mirror reload", "Take the file anew; exits with 3 if something waits for a restart.")]),
    ("healthcheck", &[("registry-mirror healthcheck", "For a container: 0 when the daemon is ready.")]),
    ("status", &[("registry-mirror status --watch", "What goes on, anew each second.")]),
    ("page", &[("registry-mirror page --open", "Open the page in a browser, logged in.")]),
    ("access", &[("registry-mirror access explain user:ci-7 ghcr.io/acme/app:1", "Which line decides, and how?")]),
    ("config", &[("registry-mirror config show", "What is in force?")]),
    (
        "store",
        &[
            ("registry-mirror store test", "Is the bucket what the mirror needs?"),
            ("registry-mirror store push", "Fill it with what is stored here."),
        ],
    ),
    ("store test", &[("registry-mirror store test -c mirror.toml", "Try the bucket that a file names.")]),
    ("store push", &[("registry-mirror store push", "Carry all that is stored into the bucket.")]),
    ("store pull", &[("registry-mirror store pull", "Bring what the bucket has into a store that was lost.")]),
    (
        "bench",
        &[("registry-mirror bench redis:7 --clients 4", "How fast is a pull, cold and warm, and past the mirror?")],
    ),
    (
        "access explain",
        &[("registry-mirror access explain anonymous ghcr.io/acme/app:1", "May somebody without a login pull it?")],
    ),
    ("inspect", &[("registry-mirror inspect redis:7", "What does it consist of, and what of that is stored?")]),
    ("history", &[("registry-mirror history redis:7", "What has the tag stood for?")]),
    ("pin", &[("registry-mirror pin redis:7", "Keep it, whatever else has to go.")]),
    ("unpin", &[("registry-mirror unpin redis:7", "Let it go when its turn comes.")]),
    ("unfreeze", &[("registry-mirror unfreeze redis:7", "Ask upstream for the tag again.")]),
    ("forget", &[("registry-mirror forget redis:7", "Know nothing of it any more; gc frees its bytes.")]),
    ("version", &[("registry-mirror version --json", "Version, commit and features, for a script.")]),
    ("completions", &[("registry-mirror completions bash", "What bash needs to complete commands and images.")]),
    ("man", &[("registry-mirror man man1", "Write these pages into the folder man1.")]),
    ("why", &[("registry-mirror why redis:7", "What would a pull get now, from where, and until when?")]),
    (
        "images",
        &[
            ("registry-mirror images ghcr.io/** --sort size", "Those of ghcr.io, the largest first."),
            ("registry-mirror images --json", "All of them, for a script."),
        ],
    ),
    (
        "pull",
        &[
            ("registry-mirror pull redis:7 --platform linux/arm64", "Fetch one platform ahead."),
            ("registry-mirror pull -f compose.yaml", "Fetch every image that a file names."),
        ],
    ),
    (
        "ready",
        &[
            (
                "registry-mirror ready -f compose.yaml",
                "Can all of them be pulled with no network? Exits with 5 if not.",
            ),
            ("registry-mirror ready redis:7 --fetch", "Fetch what is missing first."),
        ],
    ),
    ("freeze", &[("registry-mirror freeze redis:7", "Answer the tag with what it has now until it is unfrozen.")]),
    ("gc", &[("registry-mirror gc --dry-run", "What would go?")]),
    (
        "verify",
        &[("registry-mirror verify --repair --rate 50MB", "Read everything, slowly, and fetch again what is damaged.")],
    ),
    (
        "export",
        &[
            (
                "registry-mirror export --used-since 7d -o week.tar",
                "What was used in a week, for another mirror or an engine.",
            ),
            ("registry-mirror export --all --since receipt.txt -o more.tar", "Only what the other side lacks."),
        ],
    ),
    (
        "import",
        &[("registry-mirror import week.tar --receipt receipt.txt", "Take it in, and write down what is there then.")],
    ),
];

/// Where commands find the daemon.
const SOCKET: &str = "STORE/admin.sock";
/// Files, with what they are.
const FILES: [(&str, &str); 7] = [
    (
        "/etc/registry-mirror/mirror.toml",
        "The configuration, unless $REGISTRY_MIRROR_CONFIG or -c names another; see mirror.toml(5).",
    ),
    ("~/.config/registry-mirror/mirror.toml", "It comes before that in /etc; in $XDG_CONFIG_HOME, if that is set."),
    (
        "/var/cache/registry-mirror, ~/.cache/registry-mirror",
        "The store, unless store.path names another: of the service, which reads the file in /etc, and of who has another \
         file or none; in $CACHE_DIRECTORY, if systemd sets that.",
    ),
    ("STORE/blobs", "What was pulled, by its digest."),
    ("STORE/repositories", "Tags with their histories, and which repository has what."),
    (SOCKET, "Where commands find the daemon, unless server.admin_socket says otherwise."),
    ("/var/lib/registry-mirror/setup/CLIENT", "What setup wrote, and what stood there before; see --undo."),
];

/// What of the interface and of memory is too much for the README.
const REFERENCE: &str = include_str!("manual/reference.roff");

/// Every setting, with its default and what it means.
const SETTINGS: &str = include_str!("../../mirror.toml.example");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_can_be_typed() {
        for (of, examples) in EXAMPLES {
            for (line, _) in *examples {
                let typed = help::program().try_get_matches_from(line.split(' '));
                let typed = typed.unwrap_or_else(|error| panic!("{line}: {error}"));
                assert!(of.is_empty() || typed.subcommand_name() == of.split(' ').next(), "{line} of {of}");
            }
        }
    }

    #[test]
    fn every_command_has_an_example() {
        let has_one = |path: &str| EXAMPLES.iter().any(|(of, examples)| *of == path && !examples.is_empty());
        let mut open = vec![(help::program(), String::new())];
        while let Some((command, path)) = open.pop() {
            let below: Vec<_> = command.get_subcommands().filter(|below| !below.is_hide_set()).cloned().collect();
            assert!(has_one(&path), "{path}");
            let named = |below: clap::Command| {
                let path = format!("{path} {}", below.get_name()).trim().to_owned();
                (below, path)
            };
            open.extend(below.into_iter().map(named));
        }
    }

    #[test]
    fn pages_have_examples_and_files_and_there_is_one_of_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        pages(folder.path()).expect("written");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
        assert!(read("registry-mirror.1").contains(".SH FILES\n.TP\n/etc/registry\\-mirror/mirror.toml\n"));
        assert!(read("registry-mirror.1").contains("\n.SH DOCUMENTS\n"));
        let pull = read("registry-mirror-pull.1");
        assert!(
            pull.contains(".SH EXAMPLES\n.TP\nregistry\\-mirror pull redis:7 \\-\\-platform linux/arm64\n"),
            "{pull}"
        );
        for (page, file) in [
            ("config-show", "/etc/registry\\-mirror/mirror.toml"),
            ("images", "STORE/admin.sock"),
            ("export", "STORE/blobs"),
            ("setup", "/var/lib/registry\\-mirror/setup/CLIENT"),
        ] {
            let page = read(&format!("registry-mirror-{page}.1"));
            assert!(page.contains(&format!(".TP\n{file}\n")), "{file}: {page}");
        }
        assert!(!read("registry-mirror-version.1").contains(".SH FILES"));
        assert!(read("registry-mirror-config-show.1").contains("origin"));
        let file = read("mirror.toml.5");
        assert!(file.contains("\n[store]\n") && file.contains("\nlisten = [\"127.0.0.1:5000\"]\n"), "{file}");
    }
}
