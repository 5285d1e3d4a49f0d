//! What the machine and the world have before anything starts: keys, pages, a repository of each kind, and settings that
//! make programs trust the world's certificate.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::MARK;
use crate::support::{is_on_path, succeed};

/// Makes all of it below this directory.
pub(crate) fn all(home: &Path) {
    let www = home.join("world/www");
    std::fs::create_dir_all(&www).unwrap();
    write(
        &www.join("index.html"),
        &format!("<!DOCTYPE html><title>A page</title><p>{MARK}</p>\n"),
    );
    certificate(home);
    settings(home);
    program(home);
    git(home);
    apt(home);
    pip(&www);
    ssh(home);
}

/// Gives a command a home, and trust in the world's certificate, in the way of each program.
pub(crate) fn environment(command: &mut Command, home: &Path, installed: &Path) {
    let certificate = home.join("world/cert.pem");
    let path = std::env::var("PATH").unwrap();
    for variable in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command
            .env_remove(variable)
            .env_remove(variable.to_uppercase());
    }
    for variable in [
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
    ] {
        command.env(variable, &certificate);
    }
    command
        .env("REQUESTS_CA_BUNDLE", &certificate)
        .env("HOME", home)
        .env("PATH", format!("{}:{path}", home.join("bin").display()))
        .env("PYTHONPATH", installed.join("python"))
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("APT_CONFIG", home.join("apt.conf"))
        .env_remove("TORSOCKS_CONF_FILE");
    // torsocks has no file but the machine's, unless it is told of another.
    let torsocks = home.join("etc/tor/torsocks.conf");
    if torsocks.exists() {
        command.env("TORSOCKS_CONF_FILE", torsocks);
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A program that stands in front of the machine's of the same name.
fn in_front(home: &Path, name: &str, text: &str) {
    let path = home.join("bin").join(name);
    write(&path, &format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a line of the shell in a directory; what it needs was looked for.
fn sh(dir: &Path, line: &str) {
    succeed(Command::new("sh").args(["-c", line]).current_dir(dir));
}

fn certificate(home: &Path) {
    sh(
        &home.join("world"),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem \
         -days 30 -subj /CN=example.org -addext subjectAltName=DNS:example.org,DNS:www.example.org",
    );
}

fn settings(home: &Path) {
    let certificate = home.join("world/cert.pem");
    let certificate = certificate.display();
    write(
        &home.join(".wgetrc"),
        &format!("ca_certificate = {certificate}\ntries = 1\n"),
    );
    write(
        &home.join(".aria2/aria2.conf"),
        &format!("ca-certificate={certificate}\n"),
    );
    // A browser without a screen, which root may start, and which looks for no news of its maker. It writes what it shows.
    in_front(
        home,
        "chromium",
        "exec /usr/bin/chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
         --disable-background-networking --disable-component-update --disable-sync ${DEBUG---dump-dom} \"$@\"",
    );
}

/// The program under test, found by its name, where `cepa exec` does not hide it.
fn program(home: &Path) {
    let path = home.join("bin/cepa");
    std::fs::copy(env!("CARGO_BIN_EXE_cepa"), path).unwrap();
}

fn git(home: &Path) {
    if !is_on_path("git") {
        return;
    }
    let www = home.join("world/www");
    sh(
        &www,
        "git init --quiet work && cp index.html work && cd work && git add index.html \
         && git -c user.name=x -c user.email=x@example.org commit --quiet --message=first && cd .. \
         && git clone --quiet --bare work served.git && rm -r work && cd served.git && git update-server-info",
    );
}

/// A repository of one package, and a root of apt's own.
fn apt(home: &Path) {
    if !is_on_path("dpkg-deb") || !is_on_path("apt-get") {
        return;
    }
    let www = home.join("world/www");
    let control = "Package: cepa-test-package\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n\
                   Description: nothing\n";
    write(&www.join("debian/made/DEBIAN/control"), control);
    sh(
        &www.join("debian"),
        "dpkg-deb --root-owner-group --build made package.deb && rm -r made \
         && { dpkg-deb --field package.deb; echo 'Filename: ./package.deb'; \
              echo \"Size: $(stat --format=%s package.deb)\"; \
              echo \"SHA256: $(sha256sum <package.deb | cut -d' ' -f1)\"; } >Packages",
    );
    for dir in [
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "var/lib/dpkg",
        "etc/apt/apt.conf.d",
    ] {
        std::fs::create_dir_all(home.join(dir)).unwrap();
    }
    write(&home.join("var/lib/dpkg/status"), "");
    write(
        &home.join("etc/apt/sources.list"),
        "deb [trusted=yes] https://example.org/debian ./\n",
    );
    write(
        &home.join("apt.conf"),
        &format!(
            "Dir \"{}\";\nDir::State::status \"{0}/var/lib/dpkg/status\";\nDir::Bin::methods \"/usr/lib/apt/methods\";\n\
             APT::Sandbox::User \"\";\nAcquire::https::CAInfo \"{0}/world/cert.pem\";\nAcquire::Retries \"0\";\n",
            home.display()
        ),
    );
}

/// An index of one module (PEP 503).
fn pip(www: &Path) {
    let dir = www.join("simple/cepa-test-module");
    std::fs::create_dir_all(&dir).unwrap();
    let file = "cepa_test_module-1-py3-none-any.whl";
    write(
        &dir.join("index.html"),
        &format!("<!DOCTYPE html><a href=\"{file}\">{file}</a>\n"),
    );
    let make = format!(
        "import zipfile\n\
         with zipfile.ZipFile('{file}', 'w') as wheel:\n\
         \x20   info = 'cepa_test_module-1.dist-info/'\n\
         \x20   wheel.writestr('cepa_test_module.py', '')\n\
         \x20   wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: cepa-test-module\\nVersion: 1\\n')\n\
         \x20   wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
         \x20   wheel.writestr(info + 'RECORD', '')\n"
    );
    succeed(Command::new("python3").args(["-c", &make]).current_dir(dir));
}

/// A server that lets one key in, and a client that knows the server.
fn ssh(home: &Path) {
    if !is_on_path("ssh-keygen") {
        return;
    }
    let world = home.join("world");
    sh(
        &world,
        "ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f user",
    );
    // Who comes in is in the world's directory.
    write(
        &world.join("sshd.conf"),
        &format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\n\
             ForceCommand cd {0} && eval \"$SSH_ORIGINAL_COMMAND\"\n",
            world.display()
        ),
    );
    let options = format!(
        "-F \"$HOME/.ssh/config\" -i {0}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        world.display()
    );
    in_front(home, "ssh", &format!("exec /usr/bin/ssh {options} \"$@\""));
    in_front(home, "scp", "exec /usr/bin/scp -S \"$HOME/bin/ssh\" \"$@\"");
}
