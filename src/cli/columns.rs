//! Lines as they fit into a terminal: how many columns it has, and where lines break that are longer.
//!
//! A terminal breaks them within words, and goes on below what they begin with.

/// The columns of the terminal that data go to; `None` where they go elsewhere.
pub(super) fn of_terminal() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Lines that may be coloured, as they fit into so many columns: they break between words, and go on below the cell in
/// which they broke.
pub(super) fn fitted(lines: &str, columns: usize) -> String {
    lines.split('\n').map(|line| fitted_line(line, columns)).collect::<Vec<_>>().join("\n")
}

fn fitted_line(line: &str, columns: usize) -> String {
    let indent = cell(&uncoloured(line)).min(columns / 2);
    let (mut fitted, mut at) = (String::with_capacity(line.len()), 0);
    for word in line.split_inclusive(' ') {
        let seen = uncoloured(word);
        if at > indent && at + seen.trim_end().chars().count() > columns {
            fitted.truncate(fitted.trim_end().len());
            fitted.push('\n');
            fitted.push_str(&" ".repeat(indent));
            at = indent;
        }
        fitted.push_str(word);
        at += seen.chars().count();
    }
    fitted
}

/// Where the second cell of a line begins; of one that has no second, two columns behind its first word.
fn cell(line: &str) -> usize {
    let text = line.trim_start();
    let indent = line.len() - text.len();
    let gap = text.find("  ").map(|gap| (&text[..gap], &text[gap..]));
    gap.map_or(indent + 2, |(first, rest)| indent + first.chars().count() + rest.len() - rest.trim_start().len())
}

/// What is seen of a text.
fn uncoloured(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |seen, part| seen + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_goes_on_below_its_cell() {
        let line = "  warn       the disk: it is full; to do: free space";
        assert_eq!(fitted(line, 80), line);
        assert_eq!(
            fitted(line, 30),
            "  warn       the disk: it is\n             full; to do: free\n             space"
        );
        assert_eq!(fitted("    a, b, c: up", 10), "    a, b,\n     c: up");
        let coloured = "  \u{1b}[33mwarn\u{1b}[0m       the disk: it is full";
        assert_eq!(fitted(coloured, 22), "  \u{1b}[33mwarn\u{1b}[0m       the disk:\n           it is full");
        // What cannot break stays whole.
        assert_eq!(fitted("  x  https://registry.example/ up", 12), "  x  https://registry.example/\n     up");
        assert_eq!(fitted("", 1), "");
        assert_eq!(fitted("a\n\nb c", 1), "a\n\nb\nc");
    }
}
