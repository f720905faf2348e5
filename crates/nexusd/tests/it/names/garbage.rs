//! What the name service takes from whoever is in the sandbox.

use testkit::require;

use super::{Bed, FOUR};

/// Asks by hand, over UDP or TCP; the answer's code and its last four bytes.
const ASK: &str = r#"
import struct
def message(name, kind=1):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    return b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + labels + b"\0" + struct.pack("!HH", kind, 1)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(5)
udp.connect(("127.0.0.1", 53))
def answer(got): return got[3] & 15, ".".join(map(str, got[-4:])) if got[7] else ""
def ask(name, kind=1):
    udp.send(message(name, kind))
    return answer(udp.recv(4096))
def stream(): return socket.create_connection(("127.0.0.1", 53), 5)
def ask_by(s, name):
    query = message(name)
    s.sendall(struct.pack("!H", len(query)) + query)
    length, = struct.unpack("!H", s.recv(2, socket.MSG_WAITALL))
    return answer(s.recv(length, socket.MSG_WAITALL))
"#;

fn ask(bed: &Bed, allow: &[&str], script: &str) -> (Vec<String>, String) {
    bed.python(allow, &format!("{ASK}{script}"))
}

#[test]
fn more_names_than_fit_are_refused_and_those_that_fit_stay() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    bed.net.dns().host("n7.cdn.example", &[FOUR]);
    let _origins = bed.hello(443);
    let script = r#"
given = [ask(f"n{i}.cdn.example") for i in range(1024)]
print(len({address for code, address in given if code == 0}), given[0], given[1023])
over = [ask(f"n{i}.cdn.example") for i in range(1024, 1100)]
print(set(over), look("n2000.cdn.example"))
print(ask("n7.cdn.example") == given[7], talk("n7.cdn.example", 443))
"#;
    let (lines, stderr) = ask(&bed, &["*.cdn.example:443"], script);
    let expected = ["1024 (0, '198.18.1.0') (0, '198.18.4.255')", "{(2, '')} again", "True hello 443"];
    assert_eq!(lines, expected, "{stderr}");
    assert!(stderr.contains("[egress] denied n1024.cdn.example (OTHER)"), "{stderr}");
    assert_eq!(bed.asked(), ["n7.cdn.example"]);
}

#[test]
fn garbage_changes_nothing() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    bed.net.dns().host("db.example", &[FOUR]);
    let _origins = bed.hello(5432);
    let script = r#"
import random
random.seed(7)
good = message("db.example")
junk = [b"", b"\0", b"\xff" * 12, good[:11], good[:17], good[:12] + b"\xc0\x0c" + good[14:], good[:12] + b"\x3f" * 300,
    b"\xff" * 65000, good[:2] + b"\x81" + good[3:], good[:4] + b"\xff\xff" + good[6:], good * 100]
junk += [bytes(random.randrange(256) for _ in range(random.randrange(600))) for _ in range(500)]
for j in range(500):
    changed = bytearray(good); changed[random.randrange(len(good))] = random.randrange(256); junk.append(bytes(changed))
for part in junk: udp.send(part)
# What was answered of that is thrown away; then an answer is an answer. A question may find the queue full of garbage still.
udp.close()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(0.2)
udp.connect(("127.0.0.1", 53))
while True:
    try: ask("db.example"); break
    except OSError: pass
print(look("db.example", socket.AF_INET))
# Over TCP: lengths that lie, halves, more connections than are served, an end in the middle.
for part in [b"", b"\0", b"\0\0", b"\xff\xff", b"\x10\x01" + b"x" * 4097, b"\0\x0c" + b"\xff" * 12, b"\0\x20" + good[:9]]:
    s = stream(); s.sendall(part); s.close()
held = [stream() for _ in range(30)]
for s in held:
    try: s.sendall(b"\0\x1c")
    except OSError: pass
for s in held: s.close()
while True:
    try:
        s = stream()
        print(ask_by(s, "db.example"), ask_by(s, "other.example"))
        break
    except (OSError, struct.error): time.sleep(0.01)
print(talk("db.example", 5432))
"#;
    let (lines, stderr) = ask(&bed, &["db.example:5432"], script);
    assert_eq!(lines, ["['198.18.1.0']", "(0, '198.18.1.0') (3, '')", "hello 5432"], "{stderr}");
    assert_eq!(bed.asked(), ["db.example"]);
}

/// A hostile program can open connections to no purpose; they count as any others of the directive's do.
#[test]
fn connections_are_bounded_with_the_proxy_s() {
    require!(Bwrap, NetBed, Python);
    let bed = Bed::new();
    bed.config("egress: {max_connections: 4}\n");
    bed.net.dns().host("db.example", &[FOUR]);
    let address = std::net::SocketAddr::new(FOUR.parse().unwrap(), 5432);
    let _origin = testkit::TcpOrigin::start_on(bed.net.far_listener(address), testkit::TcpBehaviour::Echo);
    let script = r#"
address = socket.getaddrinfo("db.example", 5432, socket.AF_INET, socket.SOCK_STREAM)[0][4]
def echo(s):
    try: s.sendall(b"x"); return s.recv(1) == b"x"
    except OSError: return False
held = [socket.create_connection(address) for _ in range(8)]
print([echo(s) for s in held])
for s in held: s.close()
while not echo(socket.create_connection(address)): time.sleep(0.01)
print("again")
"#;
    let (lines, stderr) = bed.python(&["db.example:5432"], script);
    assert_eq!(lines, ["[True, True, True, True, False, False, False, False]", "again"], "{stderr}");
}
