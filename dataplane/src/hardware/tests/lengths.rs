//! Packets that are too long to leave go to software, where rules compare lengths.

use super::*;

/// A packet of so many bytes from the IP header on.
fn of_length(frame: Frame, length: usize) -> Frame {
    let empty = frame.build().len() - 14 - 4 * frame.tags.len();
    frame.payload(&vec![7; length - empty])
}

#[test]
fn what_is_longer_than_the_mtu_goes_to_software() {
    let frames = [
        Frame::tcp("10.0.0.2:4000", "192.0.2.9:80"),
        Frame::udp("10.0.0.2:4000", "192.0.2.9:53"),
        Frame::tcp("[fd00::2]:4000", "[2001:db8::9]:80"),
        Frame::udp("[fd00::2]:4000", "[2001:db8::9]:53"),
        Frame::udp("10.0.0.2:4000", "192.0.2.9:53").vlan(7),
    ];
    let forms = [plain_form(), form(Domain::Transfer, 0, Fields::Modify), hairpin_form(plain_form())];
    for (frame, form) in frames.iter().flat_map(|frame| forms.iter().map(move |form| (frame, form))) {
        let (flow, header) = flow(frame, frame).expect("it can be carried");
        let (nic, rules) = nic_for(form);
        install(&rules, &HardwareFlow { longest: Some(1500), ..flow.clone() }, form, 64);
        for length in [1500, 1501, 1504, 1508, 200] {
            let before = of_length(frame.clone(), length).build();
            let mut packet = before.clone();
            let outcome = nic.process(IN, &mut packet);
            if length > 1500 {
                assert_eq!((outcome, packet), (TO_SOFTWARE, before), "{length} {frame:?}");
            } else {
                assert_eq!((outcome, Some(packet)), (Outcome::Sent(OUT), worker(&before, &flow, &header)));
            }
        }
    }
}

#[test]
fn lengths_are_printed_as_testpmd_takes_them() {
    let told = |frame: &Frame| {
        let (flow, _) = flow(frame, frame).expect("it can be carried");
        let flow = HardwareFlow { longest: Some(1500), ..flow };
        print::testpmd(IN, &encode::carry(&flow, &plain_form(), Ttl::Decrement))
    };
    let ipv4 = told(&Frame::udp("10.0.0.2:4000", "192.0.2.9:53"));
    assert!(
        ipv4.contains(" / ipv4 length spec 20 length last 1500 length mask 65535 proto is 17 "),
        "{ipv4}"
    );
    let ipv6 = told(&Frame::udp("[fd00::2]:4000", "[2001:db8::9]:53"));
    assert!(ipv6.contains(" / ipv6 length spec 8 length last 1460 length mask 65535 proto is 17 "), "{ipv6}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn of_a_flow_rules_take_what_is_short_enough_and_nothing_else(
        (frame, leaves) in pairs(strategies::legal_frames()),
        form in forms(),
        longest in 68u16..1600,
    ) {
        let Ok((flow, header)) = flow(&frame, &leaves) else { return Ok(()) };
        let (nic, rules) = nic_for(&form);
        install(&rules, &HardwareFlow { longest: Some(longest), ..flow.clone() }, &form, frame.ttl);
        let before = frame.build();
        let mut packet = before.clone();
        let outcome = nic.process(IN, &mut packet);
        let length = parse(&before, IN).map_or(0, |headers| headers.l3_len);
        match worker(&before, &flow, &header).filter(|_| length <= longest) {
            Some(expected) => {
                prop_assert_eq!(outcome, Outcome::Sent(OUT));
                prop_assert_eq!(&packet[..expected.len()], &expected[..]);
            }
            None => {
                prop_assert_eq!(outcome, TO_SOFTWARE);
                prop_assert_eq!(packet, before);
            }
        }
    }
}
