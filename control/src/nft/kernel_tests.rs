//! With the kernel's nf_tables, in a namespace of the test's own.

use super::*;
use crate::netlink::testing::{in_namespace, run};

fn nft(commands: &str) {
    let path = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(path.path(), commands).expect("written");
    run(&format!("nft -f {}", path.path().display()));
}

fn list() -> String {
    run("nft list ruleset")
}

fn found() -> (OwnTable, u32) {
    let ruleset = ruleset::read().expect("read");
    (ruleset.own_table(), ruleset.generation)
}

fn install_now() {
    let (own, generation) = found();
    install(own, generation).expect("installed");
}

/// Something of a user's, in whose listing each byte counts.
const USERS: &str = "table inet filter {
    comment \"mine\"
    set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }
    chain forward { type filter hook forward priority 10; policy drop; ip saddr @s counter accept comment \"x\"; }
}
table ip flyover { chain c { }; }
";

#[test]
fn it_is_what_nft_would_make_and_recognised() {
    in_namespace(|| {
        install_now();
        let (own, generation) = found();
        assert_eq!(own, OwnTable::Intact);
        let made = list();
        assert!(
            made.contains(&format!("comment \"{}\"", ruleset::COMMENT.to_str().expect("ASCII"))),
            "{made}"
        );
        // As a user would write it, or load what was saved.
        nft(&format!("flush ruleset\n{made}"));
        assert_eq!((list(), found().0), (made, OwnTable::Intact));
        // What is there stays.
        install(OwnTable::Intact, generation).expect("nothing to do");
        assert!(remove().expect("removed"));
        assert_eq!((list().as_str(), found().0), ("", OwnTable::Absent));
        assert!(!remove().expect("nothing to do"));
    });
}

#[test]
fn the_kernel_tracks_connections_because_of_it() {
    in_namespace(|| {
        let tracked = || {
            // To the gateway itself: tracking is switched on for all hooks at once.
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
            socket.send_to(&[0], "127.0.0.1:9").expect("sent");
            let port = socket.local_addr().expect("address").port();
            run("conntrack -L -p udp").contains(&format!("sport={port} "))
        };
        assert!(!tracked(), "something else asks for it");
        install_now();
        assert!(tracked());
    });
}

#[test]
fn another_table_is_never_touched() {
    in_namespace(|| {
        nft(USERS);
        let users = list();
        install_now();
        assert!(list().starts_with(&users), "{}", list());
        assert!(remove().expect("removed"));
        assert_eq!(list(), users);

        for others in [
            "table inet flyover { }".to_owned(),
            "table inet flyover { chain forward { type filter hook forward priority 10; ct state established,related accept; }; }"
                .to_owned(),
        ] {
            nft(&format!("{USERS}{others}"));
            let before = list();
            let (own, generation) = found();
            assert_eq!(own, OwnTable::Foreign);
            install(own, generation).expect("left alone");
            assert!(!remove().expect("left alone"));
            assert_eq!(list(), before);
            nft("flush ruleset");
        }
        // Ours, with a rule of somebody's in it.
        install_now();
        nft("add rule inet flyover forward counter");
        let before = list();
        assert_eq!(found().0, OwnTable::Foreign);
        assert!(!remove().expect("left alone"));
        assert_eq!(list(), before);
    });
}

#[test]
fn what_is_left_of_it_is_replaced_whole() {
    in_namespace(|| {
        install_now();
        let made = list();
        for damage in [
            "flush table inet flyover",
            "flush chain inet flyover forward; delete chain inet flyover forward",
        ] {
            nft(damage);
            assert_eq!(found().0, OwnTable::Incomplete, "{damage}");
            install_now();
            assert_eq!(list(), made, "{damage}");
        }
        nft("flush table inet flyover");
        assert!(remove().expect("removed"));
    });
}

#[test]
fn a_ruleset_that_has_changed_since_is_left_alone() {
    in_namespace(|| {
        nft(USERS);
        let (own, generation) = found();
        nft("table inet flyover { chain forward { }; }");
        let before = list();
        let refused = install(own, generation).expect_err("of an earlier generation");
        assert!(matches!(refused, NftError::Changed), "{refused}");
        assert_eq!(list(), before);
    });
}

#[test]
fn what_a_kernel_lacks_is_said() {
    let refused = |source| {
        let doing = "install the table inet flyover".to_owned();
        NftError::from(NetlinkError::Refused { doing, source, message: String::new() }).to_string()
    };
    let text = refused(Errno::EPERM);
    assert!(text.starts_with("the kernel refused to install the table inet flyover: "), "{text}");
    assert!(text.contains("CAP_NET_ADMIN"), "{text}");
    // Without nf_tables, without its inet family, and without its `ct`.
    for lacks in [Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT, Errno::ENOENT] {
        let text = refused(lacks);
        assert!(text.ends_with("try 'modprobe -a nf_tables nft_ct'"), "{text}");
    }
}
