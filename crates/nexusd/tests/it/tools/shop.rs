//! Where the tools fetch from: a web server with files, TLS and an authority that sandboxes trust, and an ssh server, on
//! the far side of a network of the test's own.

use std::path::PathBuf;
use std::process::Command;

use testkit::{Output, Process, TestCa};

use super::sh_on_host;
use crate::names::{Bed, FOUR, SOON};

/// Serves a folder on both ports; says so once it does.
const WEB_SERVER: &str = r#"
import functools, http.server, ssl, sys, threading
host, folder, pem = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
plain, tls = (http.server.ThreadingHTTPServer((host, port), handler) for port in (80, 443))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(pem)
tls.socket = context.wrap_socket(tls.socket, server_side=True, do_handshake_on_connect=False)
threading.Thread(target=plain.serve_forever, daemon=True).start()
print("serving", flush=True)
tls.serve_forever()
"#;

/// Served as plain files, for a client that asks for them one by one.
const REPOSITORY: &str = "git init -q -b main work && cd work && echo from git > file && git add file
    git -c user.name=n -c user.email=n@e commit -qm one && cd .. && git clone -q --bare work repo.git
    git -C repo.git update-server-info && rm -rf work";

/// As small as it can be: one user, one key, no files of the host's.
const SSHD: &str = "Port 22\nUsePAM no\nStrictModes no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n\
    Subsystem sftp internal-sftp\n";

pub(crate) struct Shop {
    pub(crate) bed: Bed,
    servers: std::cell::RefCell<Vec<Process>>,
}

impl Shop {
    /// With the web server, which serves what tests put into [`Shop::folder`].
    pub(crate) fn new() -> Self {
        Self::with_config("")
    }

    /// With further lines of the configuration.
    pub(crate) fn with_config(lines: &str) -> Self {
        let bed = Self::names_alone();
        let ca = TestCa::new();
        let authority = bed.dir.write("ca.pem", ca.pem());
        bed.config(&format!("egress: {{ca_bundle: {}}}\n{lines}", authority.display()));
        let pair = ca.server(&["files.example"]);
        let pem = bed.dir.write("server.pem", format!("{}{}", pair.certificate, pair.key));
        bed.dir.write("site/hello", "hello\n");
        let shop = Self { bed, servers: std::cell::RefCell::default() };
        let mut command = Command::new("python3");
        command.args(["-c", WEB_SERVER, FOUR]).arg(shop.folder()).arg(pem);
        shop.serve(command, Output::Stdout, "serving");
        shop
    }

    /// A network with the name alone.
    pub(crate) fn names_alone() -> Bed {
        let bed = Bed::new();
        bed.net.dns().host("files.example", &[FOUR]);
        bed
    }

    /// What is served.
    pub(crate) fn folder(&self) -> PathBuf {
        self.bed.dir.join("site")
    }

    /// A repository in it, with one file on the branch `main`.
    pub(crate) fn repository(&self) -> PathBuf {
        sh_on_host(&self.folder(), REPOSITORY);
        self.folder().join("repo.git")
    }

    /// Starts an ssh server; the key that it lets in as root.
    pub(crate) fn ssh(&self) -> String {
        let dir = self.bed.dir.path();
        sh_on_host(
            dir,
            "for key in host user; do ssh-keygen -q -t ed25519 -N '' -f $key; done; mkdir -p /run/sshd; cp user.pub authorized",
        );
        let settings =
            format!("{SSHD}ListenAddress {FOUR}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n", dir.display());
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.bed.dir.write("sshd_config", settings));
        self.serve(command, Output::Stderr, "Server listening on");
        std::fs::read_to_string(dir.join("user")).unwrap()
    }

    /// Starts a server on the far side and waits until it says that it serves.
    fn serve(&self, mut command: Command, output: Output, ready: &str) {
        // The address is added with the first listener on it.
        drop(self.bed.net.far_listener(format!("{FOUR}:1").parse().unwrap()));
        let server = self.bed.net.far(move || Process::spawn(&mut command));
        drop(server.wait_for_line(output, ready, SOON));
        self.servers.borrow_mut().push(server);
    }
}
