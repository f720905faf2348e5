//! Compilers and run-times: what they build runs, and what they compile while running is executed.

use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;
use testkit::require;

use super::Everyday;

#[tokio::test]
async fn gcc_and_make_build_a_library_and_a_program() {
    require!(Bwrap, Compiler);
    let script = r#"
        cat > Makefile <<'END'
hello: hello.o libgreeting.so
	$(CC) -o $@ hello.o -L. -lgreeting -Wl,-rpath,'$$ORIGIN' -pthread
libgreeting.so: greeting.c
	$(CC) -O2 -fPIC -shared -o $@ $<
END
        cat > greeting.c <<'END'
const char *greeting(void) { return __VERSION__[0] ? "hello from a library" : ""; }
END
        cat > hello.c <<'END'
#include <pthread.h>
#include <stdio.h>
const char *greeting(void);
static void *speak(void *unused) { puts(greeting()); return unused; }
int main(void) { pthread_t t; return pthread_create(&t, 0, speak, 0) || pthread_join(t, 0); }
END
        make -s -j4
        ./hello
        make -q hello && echo up to date
        cp hello libgreeting.so /tmp && /tmp/hello"#;
    assert_eq!(Everyday::new().work(script).await, "hello from a library\nup to date\nhello from a library\n");
}

#[tokio::test]
async fn sanitizers_find_what_they_are_for() {
    require!(Bwrap, Compiler);
    // Leak detection is the exception, see `limits`.
    let script = r#"
        export ASAN_OPTIONS=detect_leaks=0
        cat > a.c <<'END'
#include <stdlib.h>
int main(int n, char **v) { (void)v; char *p = malloc(10); p[n + 9] = 1; free(p); return 0; }
END
        cat > t.c <<'END'
#include <pthread.h>
static int x;
static void *f(void *p) { x++; return p; }
int main(void) { pthread_t t; pthread_create(&t, 0, f, 0); x++; pthread_join(t, 0); return 0; }
END
        gcc -g -fsanitize=address,undefined -o a a.c
        ./a 2>&1 | grep -o 'AddressSanitizer: heap-buffer-overflow' | head -n 1
        gcc -g -fsanitize=thread -o t t.c
        ./t 2>&1 | grep -o 'ThreadSanitizer: data race' | head -n 1"#;
    let outcome = Everyday::new().outcome(&format!("set +e +o pipefail\n{script}")).await;
    let found = "AddressSanitizer: heap-buffer-overflow\nThreadSanitizer: data race\n";
    assert_eq!(outcome.stdout, found, "{}", outcome.stderr);
}

#[tokio::test]
async fn java_compiles_and_its_jit_does_too() {
    require!(Bwrap, Java);
    let script = r#"
        cat > Hello.java <<'END'
import java.util.stream.IntStream;
public class Hello {
    static long work(int n) { long s = 0; for (int i = 0; i < n; i++) s += i % 7 * (i ^ 3); return s; }
    public static void main(String[] arguments) throws Exception {
        long sum = 0;
        for (int i = 0; i < 3000; i++) sum += work(10000);
        System.out.println(sum + " " + IntStream.range(0, 1000).parallel().sum());
        Thread thread = new Thread(() -> System.out.println("a thread"));
        thread.start();
        thread.join();
        System.out.flush();
        System.exit(new ProcessBuilder("echo", "a child").inheritIO().start().waitFor());
    }
}
END
        javac Hello.java
        java -Xmx256m Hello
        java -Xmx256m -XX:+PrintCompilation Hello > compiled
        grep -E ' 4 +Hello::work' compiled | grep -o 'Hello::work' | sort -u
        java -Xmx256m -XX:+UseSerialGC -version 2>&1 | grep -o 'mixed mode'
        printf 'Main-Class: Hello\n' > manifest && jar cfm hello.jar manifest Hello.class
        java -Xmx256m -XX:+UseZGC -jar hello.jar > from-jar && sed -n 1p from-jar"#;
    let outcome = Everyday::new().outcome(script).await;
    let said = "449894982000 499500\na thread\na child\nHello::work\nmixed mode\n449894982000 499500\n";
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (0, said), "{}", outcome.stderr);
}

#[tokio::test]
async fn go_builds_without_a_network() {
    require!(Bwrap, Go);
    let script = r#"
        export GOPATH=/tmp/go GOPROXY=off GOFLAGS=-mod=mod GOTOOLCHAIN=local
        mkdir greeting
        printf 'module example.invalid/hello\n\ngo 1.18\n' > go.mod
        printf 'package greeting\n\nfunc Say() string { return "hello from a package" }\n' > greeting/greeting.go
        cat > main.go <<'END'
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"sync"

	"example.invalid/hello/greeting"
)

func main() {
	var group sync.WaitGroup
	var lock sync.Mutex
	count := 0
	for i := 0; i < 2000; i++ {
		group.Add(1)
		go func() { defer group.Done(); lock.Lock(); count++; lock.Unlock() }()
	}
	group.Wait()
	child, _ := exec.Command("echo", "a child").Output()
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "served") }))
	answer, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		panic(err)
	}
	body, _ := io.ReadAll(answer.Body)
	fmt.Printf("%s, %d, %s%s\n", greeting.Say(), count, child, body)
}
END
        go build -o hello . && ./hello"#;
    assert_eq!(Everyday::new().work(script).await, "hello from a package, 2000, a child\nserved\n");
}

/// Where a Rust toolchain is shown: rustup's own folder is in somebody's home, which sandboxes never see.
const TOOLCHAIN: &str = "/opt/rust-toolchain";

#[test]
fn cargo_builds_a_vendored_crate_with_a_toolchain_of_extra_ro_paths() {
    require!(Root, Bwrap, Compiler, Rust);
    let sysroot = std::process::Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = String::from_utf8(sysroot.stdout).unwrap();
    // In a mount namespace of this thread's own, so that the host's /opt stays as it is.
    let work = std::thread::spawn(move || {
        #[allow(deprecated, reason = "the call is unsound for FILES alone, which is not asked for")]
        rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("tmpfs", "/opt", "tmpfs", MountFlags::empty(), c"mode=0755").unwrap();
        std::fs::create_dir(TOOLCHAIN).unwrap();
        mount_bind(Path::new(sysroot.trim()), TOOLCHAIN).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let everyday = Everyday::with(|settings| settings.extra_ro_paths = vec![TOOLCHAIN.into()]);
            everyday.work(CARGO).await
        })
    });
    let said = "hello from a crate\ntest says ... ok\nrefused\n";
    assert_eq!(work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), said);
}

const CARGO: &str = r#"
    export PATH=/opt/rust-toolchain/bin:$PATH CARGO_HOME=/tmp/cargo
    mkdir -p vendor/greeting/src app/src app/.cargo
    cat > vendor/greeting/Cargo.toml <<'END'
[package]
name = "greeting"
version = "1.0.0"
edition = "2021"
END
    echo '{"files":{},"package":null}' > vendor/greeting/.cargo-checksum.json
    echo 'pub fn say() -> &'"'"'static str { "hello from a crate" }' > vendor/greeting/src/lib.rs
    cat > app/.cargo/config.toml <<'END'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "../vendor"
END
    cat > app/Cargo.toml <<'END'
[package]
name = "app"
version = "0.1.0"
edition = "2021"
[dependencies]
greeting = "1"
END
    cat > app/build.rs <<'END'
fn main() { println!("cargo:rustc-env=BUILT_BY=build.rs"); }
END
    cat > app/src/main.rs <<'END'
fn main() { assert_eq!(env!("BUILT_BY"), "build.rs"); println!("{}", greeting::say()); }
#[test]
fn says() { assert_eq!(std::thread::spawn(greeting::say).join().unwrap(), "hello from a crate"); }
END
    cd app
    cargo build --quiet --offline
    ./target/debug/app
    cargo test --quiet --offline -- --format pretty | grep '^test says'
    touch /opt/rust-toolchain/x 2>/dev/null || echo refused"#;
