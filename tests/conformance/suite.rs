//! The suite as a program: which module it is, how it is told what to do, and what it reports.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fmt::Write, fs};

use crate::olareg::Image;
use crate::support::go::{self, Module};
use crate::support::workspace::Workspace;
use crate::support::{command, requirements};

const MODULE: Module = Module {
    path: "github.com/opencontainers/distribution-spec/conformance",
    version: "v0.0.0-20231101194043-f2182352d4cc",
    // Of the files at this commit. The checksum database may not know a version that nobody tagged.
    sums: "github.com/opencontainers/distribution-spec/conformance v0.0.0-20231101194043-f2182352d4cc h1:jL+CgYEEZluGb08ZcLpEyhn389kNMlwrWOHaIqXazq0=\n\
           github.com/opencontainers/distribution-spec/conformance v0.0.0-20231101194043-f2182352d4cc/go.mod h1:odnkI+gfnNSdq8NaG/nKvENDEWkXAjjbgp8GKMllVSI=\n",
};

/// The repository that the suite reads and writes.
pub(crate) const REPOSITORY: &str = "conformance/test";

/// The suite, built.
pub(crate) struct Suite {
    program: PathBuf,
}

/// A part of the suite that can be switched on.
#[derive(Clone, Copy)]
pub(crate) enum Workflow {
    Pull,
    Push,
    ContentDiscovery,
}

impl Workflow {
    fn switch(self) -> &'static str {
        match self {
            Workflow::Pull => "OCI_TEST_PULL",
            Workflow::Push => "OCI_TEST_PUSH",
            Workflow::ContentDiscovery => "OCI_TEST_CONTENT_DISCOVERY",
        }
    }

    /// How the names of its cases begin.
    fn title(self) -> &'static str {
        match self {
            Workflow::Pull => "Pull",
            Workflow::Push => "Push",
            Workflow::ContentDiscovery => "Content Discovery",
        }
    }
}

impl Suite {
    /// Builds the suite unless that has been done before; else says why it cannot be had. It is built in a copy
    /// of the module's folder, so with the dependencies that the module itself has locked.
    pub(crate) fn build() -> Result<Suite, String> {
        let program = MODULE.build_once("conformance", |output| {
            let workplace = MODULE.requiring_module();
            go::run(go::go(workplace.path()).args(["mod", "download", MODULE.path]))?;
            let folder = go::run(go::go(workplace.path()).args(["list", "-m", "-f", "{{.Dir}}", MODULE.path]))?;
            let copy = workplace.path().join("copy");
            copy_files(Path::new(folder.trim()), &copy);
            go::run(go::go(&copy).args(["test", "-buildvcs=false", "-c", "-o"]).arg(output).arg("."))
        })?;
        Ok(Suite { program })
    }

    /// Runs these workflows on what listens at `address`. With an `image` that is there already the pull workflow
    /// pushes nothing.
    pub(crate) fn run_on(
        &self,
        address: SocketAddr,
        workflows: &[Workflow],
        image: Option<&Image>,
        workspace: &Workspace,
    ) -> Report {
        let folder = workspace.path("report");
        fs::create_dir(&folder).expect("the folder for the report is made");
        let mut command = command::confined_at(&self.program);
        command
            .current_dir(&folder)
            .env("OCI_REPORT_DIR", &folder)
            .env("OCI_ROOT_URL", format!("http://{address}"))
            .env("OCI_NAMESPACE", REPOSITORY)
            .env("OCI_CROSSMOUNT_NAMESPACE", "conformance/other")
            .envs(workflows.iter().map(|workflow| (workflow.switch(), "1")));
        if let Some(image) = image {
            command
                .env("OCI_TAG_NAME", Image::TAG)
                .env("OCI_MANIFEST_DIGEST", image.manifest.to_string())
                .env("OCI_BLOB_DIGEST", image.config.to_string());
        }
        let output = command::output(&mut command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let written = fs::read_to_string(folder.join("junit.xml"));
        let written = written.unwrap_or_else(|error| panic!("the suite writes a report ({error}):\n{said}"));
        Report { workflows: workflows.to_vec(), cases: cases(&written), said }
    }
}

/// How a run went.
pub(crate) struct Report {
    workflows: Vec<Workflow>,
    cases: Vec<Case>,
    said: String,
}

struct Case {
    name: String,
    status: String,
}

impl Report {
    /// Prints the numbers of each workflow that was on, and its skipped cases. `expected_skips` are beginnings of
    /// names, with the reason.
    ///
    /// # Panics
    /// When a case failed or was skipped without being expected to, or when a workflow tested nothing.
    pub(crate) fn assert_passed(&self, run: &str, expected_skips: &[(&str, &str)]) {
        let mut summary = format!("conformance, {run}");
        let mut wrong = Vec::new();
        for workflow in &self.workflows {
            let cases: Vec<&Case> = self.cases.iter().filter(|case| case.name.starts_with(workflow.title())).collect();
            let count = |status| cases.iter().filter(|case| case.status == status).count();
            let (passed, skipped) = (count("passed"), count("skipped"));
            let failed = cases.len() - passed - skipped;
            let title = workflow.title();
            write!(summary, "\n  {title}: {passed} passed, {failed} failed, {skipped} skipped").expect("text is taken");
            for case in cases.iter().filter(|case| case.status != "passed") {
                let reason = expected_skips.iter().find(|(start, _)| case.name.starts_with(start));
                match reason.filter(|_| case.status == "skipped") {
                    Some((_, reason)) => {
                        write!(summary, "\n    skipped, {reason}: {}", case.name).expect("text is taken")
                    }
                    None => wrong.push(format!("{}: {}", case.status, case.name)),
                }
            }
            if passed == 0 {
                wrong.push(format!("tested nothing: {title}"));
            }
        }
        requirements::say(&summary);
        assert!(wrong.is_empty(), "{run}: {wrong:#?}\n{}", self.said);
    }
}

/// The cases of a JUnit report, without the suite's own name in front of each and without its chores.
fn cases(report: &str) -> Vec<Case> {
    let attribute = |case: &str, name: &str| {
        let value = case.split(&format!(" {name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        let value = value.unwrap_or_else(|| panic!("a case has {name}: {case}"));
        value.replace("&#39;", "'").replace("&amp;", "&")
    };
    report
        .split("<testcase")
        .skip(1)
        .filter_map(|case| {
            let name = attribute(case, "name");
            let name = name.strip_prefix("[It] OCI Distribution Conformance Tests ")?;
            Some(Case { name: name.to_owned(), status: attribute(case, "status") })
        })
        .collect()
}

/// Copies the files of a folder, without those below it and without their write protection.
fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder is made");
    for entry in fs::read_dir(from).expect("the module's folder is readable") {
        let path = entry.expect("an entry is readable").path();
        if path.is_file() {
            let content = fs::read(&path).expect("a file of the module is readable");
            fs::write(to.join(path.file_name().expect("a file has a name")), content).expect("a file is written");
        }
    }
}
