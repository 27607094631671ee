//! Filters as libpcap understands them (`man pcap-filter`), compiled here: names may have to be looked up, which is not
//! for the gateway to wait for.

use std::fmt::Write as _;

use dataplane::capture::{Filter, Instruction};
use pcap::{Capture, Linktype};

/// Why a filter is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FilterError {
    #[error("can't understand the filter `{filter}`: {message}; see `man pcap-filter`")]
    NotUnderstood { filter: String, message: String },
    #[error("the filter `{filter}` can't be run: {error}")]
    NotRun { filter: String, error: dataplane::capture::FilterError },
}

/// The program of a filter for a request; empty for one that everything passes.
pub(crate) fn compile(filter: &str) -> Result<String, FilterError> {
    if filter.trim().is_empty() {
        return Ok(String::new());
    }
    let program = instructions(filter)?;
    Filter::new(&program).map_err(|error| FilterError::NotRun { filter: filter.to_owned(), error })?;
    let mut text = String::new();
    for Instruction { code, jt, jf, k } in program {
        // Writing to a string can't fail.
        let _ = write!(text, "{code:04x}{jt:02x}{jf:02x}{k:08x}");
    }
    Ok(text)
}

fn instructions(filter: &str) -> Result<Vec<Instruction>, FilterError> {
    let not_understood = |error: &dyn std::fmt::Display| FilterError::NotUnderstood {
        filter: filter.to_owned(),
        message: error.to_string().trim_start_matches("libpcap error: ").to_owned(),
    };
    let compiler = Capture::dead(Linktype::ETHERNET).map_err(|error| not_understood(&error))?;
    let program = compiler.compile(filter, true).map_err(|error| not_understood(&error))?;
    // An instruction shows itself as its four numbers, and no otherwise.
    let instruction = |shown: String| {
        let mut numbers = shown.split_ascii_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (code, jt, jf, k) = (next()?, next()?, next()?, next()?);
        Some(Instruction { code: code.try_into().ok()?, jt: jt.try_into().ok()?, jf: jf.try_into().ok()?, k })
    };
    let instructions: Option<Vec<_>> =
        program.get_instructions().iter().map(|one| instruction(one.to_string())).collect();
    instructions.ok_or_else(|| not_understood(&"libpcap's instructions can't be read"))
}

#[cfg(test)]
mod tests {
    use dataplane::capture::Template;
    use dataplane::flow::Key;
    use dataplane::packet::testing::{Frame, strategies};
    use dataplane::packet::{Ingress, parse};
    use proptest::prelude::*;

    use super::*;

    /// Every kind of thing that libpcap compiles.
    const FILTERS: [&str; 34] = [
        "ip",
        "ip6",
        "arp",
        "tcp",
        "udp or icmp",
        "not tcp",
        "host 10.0.0.1",
        "src net 10.0.0.0/8",
        "dst host 192.0.2.1 and udp",
        "host fd00::1",
        "net fd00::/8",
        "port 53",
        "src port 80",
        "portrange 1000-40000",
        "tcp port 443 and not host 10.0.0.1",
        "vlan",
        "vlan 10",
        "vlan and ip",
        "vlan 100 and vlan 200 and tcp",
        "pppoes",
        "pppoes and ip and udp",
        "ether src 02:00:00:00:00:01",
        "ether multicast",
        "ip broadcast or multicast",
        "greater 100",
        "less 64",
        "tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0",
        "ip[8] < 2",
        "ip[6:2] & 0x1fff != 0",
        "udp[8:4] = 0x01020304",
        "(ip[2:2] - ((ip[0]&0xf)<<2)) > 8",
        "len * 3 / 2 > 100 and ip[1] % 4 = 0",
        "ip proto 17 and len - 14 >= ip[2:2]",
        "ether[0:4] ^ ether[6:4] != 0 and 1 << ip[8] > 4",
    ];

    #[test]
    fn a_filter_that_is_wrong_is_told_with_libpcaps_words() {
        let error = compile("hots 10.0.0.1").expect_err("a word that is none").to_string();
        assert!(error.contains("`hots 10.0.0.1`") && error.contains("man pcap-filter"), "{error}");
        assert!(error.contains("syntax error") || error.contains("hots"), "{error}");
        assert_eq!(compile("  "), Ok(String::new()));
        assert_eq!(compile("ip").expect("a program").len() % 16, 0);
        let ports: Vec<String> = (1..400).map(|port| format!("port {}", 2 * port)).collect();
        let error = compile(&ports.join(" or ")).expect_err("too long").to_string();
        assert!(error.contains("at most 512"), "{error}");
    }

    fn compiled(filter: &str) -> (Filter, pcap::BpfProgram) {
        let compiler = Capture::dead(Linktype::ETHERNET).expect("libpcap");
        let theirs = compiler.compile(filter, true).expect("a filter");
        (Filter::new(&instructions(filter).expect("a filter")).expect("sound"), theirs)
    }

    fn agrees(filter: &str, frame: &[u8]) -> bool {
        let (ours, theirs) = compiled(filter);
        ours.passes(frame, frame.len() as u32) == theirs.filter(frame)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn frames_pass_where_libpcap_lets_them_pass(
            frame in strategies::any_frames(), filter in proptest::sample::select(&FILTERS[..]), cut in 0..200_usize
        ) {
            let bytes = frame.build();
            prop_assert!(agrees(filter, &bytes), "{filter}: {bytes:02x?}");
            let cut = &bytes[..cut.min(bytes.len())];
            prop_assert!(agrees(filter, cut), "{filter}: {cut:02x?}");
        }

        #[test]
        fn what_libpcap_lets_pass_of_a_flow_may_pass(
            frame in strategies::any_frames(), filter in proptest::sample::select(&FILTERS[..])
        ) {
            let bytes = frame.build();
            let (ours, theirs) = compiled(filter);
            if let Ok(headers) = parse(&bytes, 0) {
                let flow = Template::received(&headers.ingress, &headers.key);
                prop_assert!(ours.may_pass(&flow) || !theirs.filter(&bytes), "{filter}: {bytes:02x?}");
            }
        }
    }

    #[test]
    fn flows_of_which_no_packet_passes_are_told_apart() {
        let tuple = |sport| dataplane::flow::FiveTuple {
            proto: dataplane::flow::UDP,
            src: [10, 0, 0, 1].into(),
            dst: [192, 0, 2, 1].into(),
            sport,
            dport: 53,
        };
        let flow = |sport| {
            Template::received(&Ingress::untagged(0, [2; 6]), &Key::from_tuple(&tuple(sport)).expect("a key"))
        };
        let may_pass = |filter: &str, sport| compiled(filter).0.may_pass(&flow(sport));
        for (filter, may) in [
            ("src port 1000", true),
            ("src port 1001", false),
            ("host 10.0.0.1 and udp", true),
            ("host 10.0.0.1 and tcp", false),
            ("net 172.16.0.0/12", false),
            ("ip6", false),
            ("vlan 10", false),
            ("udp[8:4] = 7 and port 53", true),
            ("greater 1000", true),
            ("greater 1000 and port 54", false),
        ] {
            assert_eq!(may_pass(filter, 1000), may, "{filter}");
        }
        let _ = Frame::of(tuple(1));
    }
}
