//! Programs that are built with Go from their published modules, once, and kept below `target/tmp/go-bin`.
//! Compiling one takes a minute or two, so it is done only where the programs are demanded; elsewhere those
//! that have been built before are used. Go itself decides where modules come from and verifies them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::{command, requirements};

/// crane is one of its programs.
pub(crate) const CRANE: Module =
    Module { path: "github.com/google/go-containerregistry", version: "v0.20.6", sums: "" };
/// buildkitd and buildctl are two of its programs.
pub(crate) const BUILDKIT: Module = Module { path: "github.com/moby/buildkit", version: "v0.26.3", sums: "" };
/// crictl is one of its programs.
pub(crate) const CRI_TOOLS: Module = Module { path: "sigs.k8s.io/cri-tools", version: "v1.34.0", sums: "" };
/// oras is its program.
pub(crate) const ORAS: Module = Module { path: "oras.land/oras", version: "v1.2.3", sums: "" };
/// regctl is one of its programs.
pub(crate) const REGCTL: Module = Module { path: "github.com/regclient/regclient", version: "v0.11.5", sums: "" };

/// A module at one version.
pub(crate) struct Module {
    /// Its path.
    pub(crate) path: &'static str,
    /// Its exact version.
    pub(crate) version: &'static str,
    /// Its lines of `go.sum`, where the checksum database does not know the version.
    pub(crate) sums: &'static str,
}

impl Module {
    /// The program whose package is in this folder of the module, built or kept from before; else why it cannot
    /// be had.
    pub(crate) fn program(&self, folder: &str) -> Result<PathBuf, String> {
        self.build_once(folder.rsplit('/').next().unwrap_or(folder), |output| {
            let workplace = self.requiring_module();
            let package = format!("{}/{folder}", self.path);
            run(go(workplace.path()).args(["build", "-buildvcs=false", "-o"]).arg(output).arg(package))
        })
    }

    /// A module of our own that needs this one. Asking for a version directly would also ask for the list of
    /// all versions, which not every proxy has.
    pub(crate) fn requiring_module(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder is made");
        let text = format!("module programs\n\ngo 1.24\n\nrequire {} {}\n", self.path, self.version);
        fs::write(folder.path().join("go.mod"), text).expect("go.mod is written");
        fs::write(folder.path().join("go.sum"), self.sums).expect("go.sum is written");
        folder
    }

    /// The program of this name, built by `build` unless that has been done before.
    pub(crate) fn build_once(
        &self,
        name: &str,
        build: impl FnOnce(&Path) -> Result<String, String>,
    ) -> Result<PathBuf, String> {
        // Go uses all processors for one program.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-bin");
        let program = folder.join(format!("{name}-{}", self.version));
        if program.exists() {
            return Ok(program);
        }
        let wanted = format!("the program {name} {}", self.version);
        if !requirements::demanded() {
            return Err(format!("{wanted} (built with {}=1)", requirements::DEMAND));
        }
        if requirements::find("go").is_none() {
            return Err(format!("{wanted}, and Go to build it"));
        }
        fs::create_dir_all(&folder).expect("the folder for programs is made");
        let unfinished = tempfile::tempdir_in(&folder).expect("a folder is made");
        let output = unfinished.path().join(name);
        build(&output).map_err(|reason| format!("{wanted}: {reason}"))?;
        fs::rename(output, &program).expect("the finished program gets its name");
        Ok(program)
    }
}

/// Go in `folder`, as it is installed: it neither fetches another Go nor needs a C compiler.
pub(crate) fn go(folder: &Path) -> Command {
    let mut command = command::unconfined("go");
    let environment = [("GOFLAGS", "-mod=mod"), ("GOWORK", "off"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")];
    command.current_dir(folder).envs(environment);
    command
}

/// What the command wrote to stdout, or all that it said against it.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command::output(command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = said.lines().filter(|line| !line.starts_with("go: downloading")).collect();
    Err(format!("{command:?} failed: {stdout}{}", complaints.join("\n")))
}
