//! `install.sh`, with a release in a folder.

use crate::support::Desk;
use crate::support::env::PROGRAM;
use crate::support::pty::skipped;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh");

/// A folder with what a release of this program holds, or nothing when the machine lacks a tool.
fn release_of(desk: &Desk, program: &str) -> Option<PathBuf> {
    let missing = ["curl", "tar", "sha256sum"].into_iter().find(|tool| {
        let found = Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        found.is_err()
    });
    if let Some(tool) = missing {
        skipped("install.sh", &format!("{tool} is missing"));
        return None;
    }
    let name = format!("ddollar-{}-unknown-linux-musl", std::env::consts::ARCH);
    let script = format!(
        "mkdir release {name} && cp {program} {name}/ddollar && tar -czf release/{name}.tar.gz {name} && \
         cd release && sha256sum *.tar.gz >SHA256SUMS"
    );
    let made = desk.command("sh").args(["-c", &script]).status().unwrap();
    assert!(made.success());
    Some(desk.join("release"))
}

fn release(desk: &Desk) -> Option<PathBuf> {
    release_of(desk, PROGRAM)
}

fn install(desk: &Desk, releases: &str) -> Output {
    desk.command("sh")
        .env("DDOLLAR_RELEASES", releases)
        .stdin(fs::File::open(SCRIPT).unwrap())
        .output()
        .unwrap()
}

#[test]
fn it_installs_what_has_the_right_sum() {
    let desk = Desk::new();
    let Some(release) = release(&desk) else {
        return;
    };
    let releases = format!("file://{}", release.display());
    // The second time over a program that is there.
    for _ in 0..2 {
        let output = install(&desk, &releases);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
        assert!(stdout.starts_with("installed ddollar "), "{stdout}");
        assert!(stdout.contains("is not in your PATH"), "{stdout}");
    }
    let entries = fs::read_dir(desk.join(".local/bin")).unwrap();
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ddollar"]);
}

#[test]
fn a_relative_folder_is_below_where_it_was_called() {
    let desk = Desk::new();
    let Some(release) = release(&desk) else {
        return;
    };
    let output = desk
        .command("sh")
        .env("DDOLLAR_RELEASES", format!("file://{}", release.display()))
        .env("DDOLLAR_BIN", "my bin")
        .stdin(fs::File::open(SCRIPT).unwrap())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let program = desk.path().canonicalize().unwrap().join("my bin/ddollar");
    assert!(program.exists(), "{stdout}");
    assert!(stdout.contains(program.to_str().unwrap()), "{stdout}");
}

/// In a folder that is called `~` nobody would look for it.
#[test]
fn a_tilde_that_no_shell_has_read_is_refused() {
    let desk = Desk::new();
    let output = desk
        .command("sh")
        .env("DDOLLAR_RELEASES", "file:///nowhere")
        .env("DDOLLAR_BIN", "~/bin")
        .stdin(fs::File::open(SCRIPT).unwrap())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("only a shell knows '~'"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

/// A folder of the program's name is there, or what is installed could not run, as on a disk that is
/// mounted with noexec.
#[test]
fn what_would_not_run_is_not_installed() {
    for (is_folder, problem) in [
        (true, "ddollar is a folder; nothing was installed"),
        (false, "cannot be run; nothing was installed: "),
    ] {
        let desk = Desk::new();
        let broken = desk.write("broken", "#!/no/such/program\n");
        let program = if is_folder {
            PROGRAM
        } else {
            broken.to_str().unwrap()
        };
        let Some(release) = release_of(&desk, program) else {
            return;
        };
        let place = desk.join(".local/bin");
        fs::create_dir_all(&place).unwrap();
        let target = place.join("ddollar");
        match is_folder {
            true => fs::create_dir(&target).unwrap(),
            false => fs::write(&target, "the old one").unwrap(),
        }
        let output = install(&desk, &format!("file://{}", release.display()));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(problem), "{stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        match is_folder {
            true => assert_eq!(fs::read_dir(&target).unwrap().count(), 0),
            false => assert_eq!(fs::read_to_string(&target).unwrap(), "the old one"),
        }
    }
}

#[test]
fn it_installs_nothing_else() {
    let desk = Desk::new();
    let Some(release) = release(&desk) else {
        return;
    };
    let sums = release.join("SHA256SUMS");
    let good = fs::read_to_string(&sums).unwrap();
    let flipped = if good.starts_with('0') { "1" } else { "0" };
    for (text, problem) in [
        (
            format!("{flipped}{}", &good[1..]),
            "the SHA-256 sum is wrong",
        ),
        (good.replace(".tar.gz", ".zip"), "SHA256SUMS does not name"),
        (String::new(), "SHA256SUMS does not name"),
    ] {
        fs::write(&sums, text).unwrap();
        let output = install(&desk, &format!("file://{}", release.display()));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(problem), "{stderr}");
    }
    let output = install(&desk, "file:///no/such/release");
    assert_eq!(output.status.code(), Some(1));
    // Nobody listens there, and nobody is asked.
    let output = install(&desk, "http://127.0.0.1:9/release");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("onnect"), "{stderr}");
    let output = install(&desk, "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("set DDOLLAR_REPOSITORY"));
    // Half of the script does nothing.
    let text = fs::read_to_string(SCRIPT).unwrap();
    let half = text.rsplit_once("\nmain\n").unwrap().0;
    let output = desk
        .command("sh")
        .env("DDOLLAR_RELEASES", "file:///no/such/release")
        .args(["-c", half])
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert!(!desk.join(".local/bin").exists());
}
