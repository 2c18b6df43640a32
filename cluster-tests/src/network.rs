//! Hosts on a network of their own: a network namespace for each, joined by a bridge in one more.
//!
//! The thread of the test moves into the namespace of the bridge, so that its client, its upstream and every
//! process that it starts stand there. Namespaces have no names and live only as long as a process in them:
//! each is held open with a `cat` that ends when the test does, however the test ends. So nothing is
//! left behind, and tests may use the same addresses at once.
//!
//! Needs root, iproute2 and iptables.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the tools are, whatever the shell that runs the tests says.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

const BRIDGE: &str = "bridge0";

/// The network of one test, with the thread that made it inside. Dropping it moves the thread back out.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
    /// Where the thread was before.
    outside: File,
    /// Holds the bridge.
    _hub: Namespace,
}

/// One host: a namespace with an address on the bridge.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    address: Ipv4Addr,
}

#[derive(Debug)]
struct Namespace {
    holder: Child,
}

impl Network {
    /// The address of the bridge: of the test itself.
    pub const TEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    /// A network with `hosts` hosts. Moves the calling thread into it: call it from a runtime whose only thread
    /// is that of the test.
    ///
    /// # Panics
    /// The caller is not root, or a tool is missing: the message says which.
    #[must_use]
    pub fn with_hosts(hosts: usize) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "scenarios with network namespaces need root: run scripts/test as root, in a container with \
             CAP_SYS_ADMIN and CAP_NET_ADMIN if in any"
        );
        let outside = File::open("/proc/thread-self/ns/net").expect("/proc is mounted");
        let hub = Namespace::new();
        enter(&hub.open());
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", BRIDGE, "type", "bridge"]);
        ip(&["address", "add", &format!("{}/24", Self::TEST), "dev", BRIDGE]);
        ip(&["link", "set", BRIDGE, "up"]);
        Self {
            hosts: (0..hosts).map(Host::join).collect(),
            outside,
            _hub: hub,
        }
    }

    /// The host number `index`.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// Lets only hosts of the same island hear each other, and mends every earlier cut. The test still reaches
    /// all hosts, and a host in no island hears everybody.
    ///
    /// # Panics
    /// iptables refuses.
    pub fn cut(&self, islands: &[&[usize]]) {
        self.heal();
        for (number, island) in islands.iter().enumerate() {
            let others = islands.iter().enumerate().filter(|(other, _)| *other != number);
            let others: Vec<usize> = others.flat_map(|(_, others)| others.iter().copied()).collect();
            for (&here, &there) in island
                .iter()
                .flat_map(|here| others.iter().map(move |there| (here, there)))
            {
                let source = self.hosts[there].address.to_string();
                // What is sent is lost on the way: the sender sees no error.
                self.hosts[here].iptables(&["--append", "INPUT", "--source", &source, "--jump", "DROP"]);
            }
        }
    }

    /// Mends every cut.
    ///
    /// # Panics
    /// iptables refuses.
    pub fn heal(&self) {
        self.hosts
            .iter()
            .for_each(|host| host.iptables(&["--flush", "INPUT"]));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        enter(&self.outside);
    }
}

impl Host {
    /// Its address on the bridge.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What starts a command line that is to run on this host. The process keeps its id.
    pub(crate) fn enter_command(&self) -> Vec<String> {
        vec![
            "nsenter".to_owned(),
            format!("--net={}", self.namespace.path()),
            "--".to_owned(),
        ]
    }

    /// The host number `index`, whose other end of the cable is at the bridge of the calling thread.
    fn join(index: usize) -> Self {
        let namespace = Namespace::new();
        let last = u8::try_from(index + 11).expect("few hosts");
        let address = Ipv4Addr::new(10, 77, 0, last);
        let (cable, holder) = (format!("host{index}"), namespace.holder.id().to_string());
        ip(&[
            "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &holder,
        ]);
        ip(&["link", "set", &cable, "master", BRIDGE, "up"]);
        let host = Self { namespace, address };
        host.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
        host.ip(&["link", "set", "eth0", "up"]);
        host.ip(&["link", "set", "lo", "up"]);
        host
    }

    fn ip(&self, args: &[&str]) {
        self.run("ip", args);
    }

    fn iptables(&self, args: &[&str]) {
        self.run("iptables", &[&["--wait"], args].concat());
    }

    fn run(&self, program: &str, args: &[&str]) {
        let command = self.enter_command();
        let before: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        run(&command[0], &[&before[..], &[program], args].concat());
    }
}

impl Namespace {
    fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "cat"])
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs: it is part of util-linux");
        // What comes back has passed through `cat`, which runs only inside.
        let mut echo = [0];
        let stdin = holder.stdin.as_mut().expect("a pipe was asked for");
        let written = stdin.write_all(b".");
        let stdout = holder.stdout.as_mut().expect("a pipe was asked for");
        written
            .and_then(|()| stdout.read_exact(&mut echo))
            .expect("a network namespace can be made: as root, in a container with CAP_SYS_ADMIN if in any");
        Self { holder }
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    fn open(&self) -> File {
        File::open(self.path()).expect("the holder runs")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("root may enter a network namespace");
}

fn ip(args: &[&str]) {
    run("ip", args);
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .env("PATH", PATH)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error} (on Debian: apt-get install iproute2 iptables)"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {} (on Debian: apt-get install iproute2 iptables)",
        String::from_utf8_lossy(&output.stderr)
    );
}
