//! What becomes of which file: worked out for all of them before any is written.

use super::files::{Content, Root};
use super::record::{Kept, Record};
use crate::documents::{Code, Error, FileChange, SetUpFile};
use crate::setup::{Beside, File, Kind, Refused, Settings};

/// What becomes of one file.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) path: String,
    pub(super) now: Option<Content>,
    pub(super) then: Option<Content>,
    /// Whether its client reads it only when it starts.
    pub(super) needs_restart: bool,
}

impl Change {
    pub(super) fn is_one(&self) -> bool {
        self.now != self.then
    }

    /// How it is told.
    pub(super) fn told(&self, root: &Root) -> SetUpFile {
        let path = root.shown(&self.path);
        let change = match (&self.now, &self.then) {
            (now, then) if now == then => FileChange::Unchanged,
            (None, _) => FileChange::Created,
            (_, None) => FileChange::Removed,
            _ => FileChange::Changed,
        };
        let text = |content: &Option<Content>| {
            content.as_ref().map(|content| String::from_utf8_lossy(&content.bytes).into_owned()).unwrap_or_default()
        };
        let name = |content: &Option<Content>| content.as_ref().map_or("/dev/null", |_| &path).to_owned();
        let (from, to) = (name(&self.now), name(&self.then));
        let (old, new) = (text(&self.now), text(&self.then));
        let diff = similar::TextDiff::from_lines(&old, &new).unified_diff().header(&from, &to).to_string();
        SetUpFile { path, change, diff }
    }
}

/// All that is to be done, and what is to be kept of it.
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    pub(super) kept: Vec<Kept>,
}

fn text<'a>(root: &Root, path: &str, content: Option<&'a Content>) -> Result<Option<&'a str>, Error> {
    let text = content.map(|content| std::str::from_utf8(&content.bytes)).transpose();
    text.map_err(|_| Error::new(Code::Failed, format!("{} cannot be read: it is not UTF-8", root.shown(path))))
}

/// What is told of a file that is left alone.
pub(super) fn refused(root: &Root, path: &str, refused: Refused) -> Error {
    let hint = match &refused {
        Refused::Unreadable(_) => "nothing was changed; mend the file, or set the client up by hand",
        Refused::Conflict(_) => "nothing was changed; move that away, or set the client up by hand",
        Refused::Mixed(_) => "nothing was changed; take it out by hand, or put back what was written",
        Refused::Unable(_) => return Error::new(Code::Usage, refused.to_string()),
        Refused::Failed(error) => return error.clone(),
        Refused::In(other, inner) => return self::refused(root, other, Refused::clone(inner)),
    };
    Error::new(Code::Failed, format!("{}: {refused}", root.shown(path))).with_hint(hint)
}

/// What a file would be without us.
fn base(root: &Root, kept: &Kept, settings: &Settings, now: Option<Content>) -> Result<Option<Content>, Error> {
    let before = kept.before();
    let Some(now) = now else { return Ok(None) };
    if kept.is_as_written(&now) {
        return Ok(before.cloned());
    }
    if kept.says_what_was_written(&now) {
        // What others made of its mode and its owner is theirs.
        return Ok(before.map(|before| now.with(before.bytes.clone())));
    }
    if before.is_some_and(|before| before.bytes == now.bytes) {
        return Ok(Some(now));
    }
    let (old, new) = (text(root, &kept.path, before)?, text(root, &kept.path, Some(&now))?.unwrap_or_default());
    let without = kept.kind.without(settings, old, new).map_err(|error| refused(root, &kept.path, error))?;
    Ok(without.map(|text| now.with(text.into_bytes())))
}

/// Whether a file says all that it is to say.
fn says_it(
    root: &Root,
    path: &str,
    kind: &Kind,
    settings: &Settings,
    now: &Content,
    beside: &[Beside],
) -> Result<bool, Error> {
    let says = text(root, path, Some(now))?;
    let merged = kind.merged(settings, says, beside).map_err(|error| refused(root, path, error))?;
    Ok(says == Some(merged.as_str()))
}

impl Plan {
    /// Puts `settings` into `files`. What an earlier record says was written elsewhere is undone.
    pub(super) fn to_apply(
        root: &Root,
        files: Vec<File>,
        settings: &Settings,
        earlier: Option<&Record>,
        beside: &[Beside],
    ) -> Result<Plan, Error> {
        let mut plan = Plan { changes: Vec::new(), kept: Vec::new() };
        for File { path, kind } in files {
            let now = root.read(&path)?;
            let known = earlier.and_then(|record| record.files.iter().find(|kept| kept.path == path));
            let before = match (earlier, known) {
                (Some(record), Some(kept)) => base(root, kept, &record.settings, now.clone())?,
                _ => now.clone(),
            };
            let is_known = known.is_some() && earlier.is_some_and(|record| record.settings == *settings);
            match now {
                // What others wrote around it stays where it is.
                Some(now) if is_known && says_it(root, &path, &kind, settings, &now, beside)? => {
                    let needs_restart = kind.needs_restart();
                    plan.kept.push(Kept::new(path.clone(), kind, before, &now));
                    plan.changes.push(Change { path, now: Some(now.clone()), then: Some(now), needs_restart });
                }
                now => plan.add(root, (path, kind), settings, (before, now), beside)?,
            }
        }
        if let Some(record) = earlier {
            let other = |kept: &&Kept| !plan.changes.iter().any(|change| change.path == kept.path);
            let gone: Vec<_> = record.files.iter().filter(other).collect();
            let undone: Result<Vec<_>, Error> =
                gone.into_iter().map(|kept| undone(root, kept, &record.settings)).collect();
            plan.changes.extend(undone?);
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        root: &Root,
        (path, kind): (String, Kind),
        settings: &Settings,
        (before, now): (Option<Content>, Option<Content>),
        beside: &[Beside],
    ) -> Result<(), Error> {
        let old = text(root, &path, before.as_ref())?;
        let merged = kind.merged(settings, old, beside).map_err(|error| refused(root, &path, error))?;
        let needs_restart = kind.needs_restart();
        let then = if old.unwrap_or_default() == merged {
            before
        } else {
            let like = now.as_ref().or(before.as_ref());
            let bytes = merged.into_bytes();
            let then = like.map_or_else(|| Content::new(bytes.clone()), |like| like.with(bytes.clone()));
            self.kept.push(Kept::new(path.clone(), kind, before.clone(), &then));
            Some(then)
        };
        self.changes.push(Change { path, now, then, needs_restart });
        Ok(())
    }

    /// Takes out what a record says was put in.
    pub(super) fn to_undo(root: &Root, record: &Record) -> Result<Plan, Error> {
        let changes = record.files.iter().map(|kept| undone(root, kept, &record.settings));
        Ok(Plan { changes: changes.collect::<Result<_, _>>()?, kept: Vec::new() })
    }

    /// Whether a client has to start again to see it.
    pub(super) fn needs_restart(&self) -> bool {
        self.changes.iter().any(|change| change.is_one() && change.needs_restart)
    }

    /// Writes the files that change. Where one cannot be written, those before it become what they were.
    pub(super) fn carry_out(&self, root: &Root) -> Result<(), Error> {
        let put = |path: &str, content: &Option<Content>| match content {
            Some(content) => root.write(path, content, &mut Vec::new()),
            None => root.remove(path),
        };
        let changes: Vec<_> = self.changes.iter().filter(|change| change.is_one()).collect();
        for (done, change) in changes.iter().enumerate() {
            if let Err(error) = put(&change.path, &change.then) {
                for change in &changes[..done] {
                    let _ = put(&change.path, &change.now);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

fn undone(root: &Root, kept: &Kept, settings: &Settings) -> Result<Change, Error> {
    let now = root.read(&kept.path)?;
    let then = base(root, kept, settings, now.clone())?;
    Ok(Change { path: kept.path.clone(), now, then, needs_restart: kept.kind.needs_restart() })
}
