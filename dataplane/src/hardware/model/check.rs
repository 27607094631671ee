//! What the model NIC takes and what it refuses: as strict as the strictest driver, part by part.
//!
//! Rules of thumb behind this, each of some driver: contents and masks come together, no ranges are known but of lengths, a mask asks for
//! a whole number or nothing (addresses by prefix), no value has bits outside of its mask, what a pattern says twice must
//! agree, actions come in the order in which they are carried out, and none twice.

use nix::errno::Errno;

use super::super::Tier;
use super::actions::{Actions, actions};
use super::hairpin::Hairpins;
use super::rule::{Checked, Content, Fate, Layer, Place, Shape, key_of};
use crate::dpdk::flow_rule::{ErrorKind, FlowError, ItemKind, RawItem, RuleView};

/// What a rule is checked against.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    pub(super) tier: Tier,
    pub(super) ports: &'a [u16],
    pub(super) queues: u16,
    pub(super) groups: u32,
    pub(super) priorities: u32,
    /// Where they are the only way to another port.
    pub(super) hairpins: Option<&'a Hairpins>,
    /// Whether lengths are compared, by range.
    pub(super) lengths: bool,
}

const MOST_ITEMS: usize = 12;

pub(super) fn refuse<T>(kind: ErrorKind, message: &str) -> Result<T, FlowError> {
    Err(FlowError::new(kind, Errno::EINVAL, message))
}

pub(super) fn unsupported<T>(kind: ErrorKind, message: &str) -> Result<T, FlowError> {
    Err(FlowError::new(kind, Errno::ENOTSUP, message))
}

/// Checks a rule that a port's driver is asked for.
pub(super) fn check(port: u16, view: &RuleView<'_>, limits: &Limits<'_>) -> Result<Checked, FlowError> {
    if limits.tier == Tier::None {
        return Err(FlowError::unsupported());
    }
    let place = attributes(port, view, limits)?;
    let pattern = items(view, place, limits)?;
    let done = actions(view, place, &pattern, limits)?;
    if limits.tier == Tier::Assist && !matches!(done.fate, Fate::Software(_) | Fate::Drop) {
        return unsupported(ErrorKind::Action, "this NIC can mark, queue and drop, and nothing else");
    }
    let content = |layer| pattern.specs.iter().find(|(of, _)| *of == layer).map(|(_, content)| *content);
    let Some(key) = key_of(&pattern.shape, content) else {
        return refuse(ErrorKind::Item, "an item without contents");
    };
    let Actions { steps, mark, counts, age_s, fate } = done;
    let priority = view.attr().priority;
    let Pattern { shape, lengths, .. } = pattern;
    Ok(Checked { place, priority, shape, key, lengths, steps, mark, counts, age_s, fate })
}

fn attributes(port: u16, view: &RuleView<'_>, limits: &Limits<'_>) -> Result<Place, FlowError> {
    let attr = view.attr();
    if view.has_reserved_bits() {
        return refuse(ErrorKind::Attributes, "reserved bits are set");
    }
    if !limits.ports.contains(&port) {
        return Err(FlowError::new(ErrorKind::Unspecified, Errno::ENODEV, "no such port"));
    }
    if attr.egress {
        return unsupported(ErrorKind::Egress, "rules for packets that leave are not supported");
    }
    if attr.ingress == attr.transfer {
        return refuse(ErrorKind::Attributes, "a rule is either for ingress or for transfer");
    }
    if attr.transfer && (limits.tier == Tier::Assist || limits.hairpins.is_some()) {
        return unsupported(ErrorKind::Transfer, "there is no switch in this NIC");
    }
    if attr.group >= limits.groups || limits.tier == Tier::Assist && attr.group > 0 {
        return unsupported(ErrorKind::Group, "there are not so many groups");
    }
    if attr.priority >= limits.priorities {
        return unsupported(ErrorKind::Priority, "there are not so many priorities");
    }
    Ok(Place { port: (!attr.transfer).then_some(port), group: attr.group })
}

/// What a pattern compares, and what it is known to have.
pub(super) struct Pattern {
    shape: Shape,
    specs: Vec<(Layer, Content)>,
    lengths: Option<(u16, u16)>,
    pub(super) tags: u8,
    pub(super) ip: Option<Layer>,
    pub(super) l4: Option<Layer>,
}

fn items(view: &RuleView<'_>, place: Place, limits: &Limits<'_>) -> Result<Pattern, FlowError> {
    if !view.ends()[0] || view.items().len() > MOST_ITEMS {
        return refuse(ErrorKind::ItemCount, "the pattern has no end, or too many items");
    }
    let mut pattern =
        Pattern { shape: Vec::new(), specs: Vec::new(), lengths: None, tags: 0, ip: None, l4: None };
    let mut last: Option<Layer> = None;
    for item in view.items().iter().filter(|item| item.kind != ItemKind::VOID) {
        let layer = layer(item, pattern.tags)?;
        if !may_follow(last, layer, place) {
            return refuse(ErrorKind::Item, "items are not in the order of the headers");
        }
        let (spec, mask, range) = contents(item, layer, limits)?;
        pattern.lengths = pattern.lengths.or(range);
        if layer == Layer::Port {
            let id = u16::from_ne_bytes([spec[0], spec[1]]);
            if mask[..2] != [0xff; 2] || !limits.ports.contains(&id) {
                return refuse(ErrorKind::ItemSpec, "there is no such port");
            }
        }
        agree(&pattern, layer)?;
        match layer {
            Layer::Tag(_) => pattern.tags += 1,
            Layer::Ipv4 | Layer::Ipv6 => pattern.ip = Some(layer),
            Layer::Tcp | Layer::Udp => pattern.l4 = Some(layer),
            Layer::Port | Layer::Eth | Layer::Integrity => {}
        }
        pattern.specs.push((layer, spec));
        pattern.shape.push((layer, mask));
        last = Some(layer);
    }
    match last {
        Some(_) if place.port.is_some() || pattern.shape.first().is_some_and(|(l, _)| *l == Layer::Port) => {
            Ok(pattern)
        }
        _ => refuse(ErrorKind::Item, "a rule of the switch begins with the port, any other with eth"),
    }
}

fn layer(item: &RawItem<'_>, tags: u8) -> Result<Layer, FlowError> {
    Ok(match item.kind {
        ItemKind::REPRESENTED_PORT => Layer::Port,
        ItemKind::ETH => Layer::Eth,
        ItemKind::VLAN if tags < 2 => Layer::Tag(tags),
        ItemKind::VLAN => return refuse(ErrorKind::Item, "more than two VLAN tags"),
        ItemKind::IPV4 => Layer::Ipv4,
        ItemKind::IPV6 => Layer::Ipv6,
        ItemKind::TCP => Layer::Tcp,
        ItemKind::UDP => Layer::Udp,
        ItemKind::INTEGRITY => Layer::Integrity,
        _ => return unsupported(ErrorKind::Item, "this item is not supported"),
    })
}

/// Whether the second can be the next header behind the first.
fn may_follow(first: Option<Layer>, second: Layer, place: Place) -> bool {
    match second {
        Layer::Port => first.is_none() && place.port.is_none(),
        Layer::Eth => match place.port {
            None => first == Some(Layer::Port),
            Some(_) => first.is_none(),
        },
        Layer::Tag(0) => first == Some(Layer::Eth),
        Layer::Tag(_) => first == Some(Layer::Tag(0)),
        Layer::Ipv4 | Layer::Ipv6 => matches!(first, Some(Layer::Eth | Layer::Tag(_))),
        Layer::Tcp | Layer::Udp => matches!(first, Some(Layer::Ipv4 | Layer::Ipv6)),
        Layer::Integrity => matches!(first, Some(Layer::Tcp | Layer::Udp)),
    }
}

/// Fields of a layer that can be compared: where, how long, and whether by prefix, by bit, or as a whole.
#[derive(Clone, Copy, PartialEq)]
enum Grain {
    Whole,
    Prefix,
    Bits,
}

fn fields(layer: Layer) -> &'static [(usize, usize, Grain)] {
    match layer {
        Layer::Port => &[(0, 2, Grain::Whole)],
        Layer::Eth => {
            &[(0, 6, Grain::Whole), (6, 6, Grain::Whole), (12, 2, Grain::Whole), (14, 1, Grain::Bits)]
        }
        // Tag control information by bit: priority, DEI and id are three fields.
        Layer::Tag(_) => &[(0, 2, Grain::Bits), (2, 2, Grain::Whole), (4, 1, Grain::Bits)],
        // Not the identification and the checksum; the total length by range alone.
        Layer::Ipv4 => &[
            (0, 1, Grain::Bits),
            (1, 1, Grain::Bits),
            (6, 2, Grain::Bits),
            (8, 1, Grain::Whole),
            (9, 1, Grain::Whole),
            (12, 4, Grain::Prefix),
            (16, 4, Grain::Prefix),
        ],
        // Not traffic class and flow label; the length by range alone.
        Layer::Ipv6 => &[
            (6, 1, Grain::Whole),
            (7, 1, Grain::Whole),
            (8, 16, Grain::Prefix),
            (24, 16, Grain::Prefix),
            (40, 1, Grain::Bits),
        ],
        Layer::Tcp => &[(0, 2, Grain::Whole), (2, 2, Grain::Whole), (13, 1, Grain::Bits)],
        Layer::Udp => &[(0, 2, Grain::Whole), (2, 2, Grain::Whole)],
        Layer::Integrity => &[(0, 1, Grain::Bits)],
    }
}

fn is_allowed(mask: &[u8], grain: Grain) -> bool {
    let (zeros, ones) = (mask.iter().all(|byte| *byte == 0), mask.iter().all(|byte| *byte == 0xff));
    match grain {
        Grain::Bits => true,
        Grain::Whole => zeros || ones,
        Grain::Prefix => {
            let set = mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
            let leading = mask.iter().try_fold(0, |sum, byte| match byte.leading_ones() {
                8 => Ok(sum + 8),
                some => Err(sum + some),
            });
            leading.unwrap_or_else(|sum| sum) == set
        }
    }
}

/// Values and mask of an item, and the range of lengths that it asks for.
type Contents = (Content, Content, Option<(u16, u16)>);

fn contents(item: &RawItem<'_>, layer: Layer, limits: &Limits<'_>) -> Result<Contents, FlowError> {
    let nothing = layer.of_item(&[]);
    let (spec, mask) = match (item.spec, item.mask, item.last) {
        (None, None, None) => return Ok((nothing, nothing, None)),
        (Some(spec), Some(mask), Some(last)) => {
            let (spec, mask, range) = range(layer, [spec, mask, last], limits)?;
            let plain = RawItem { kind: item.kind, spec: Some(&spec), last: None, mask: Some(&mask) };
            let (spec, mask, _) = contents(&plain, layer, limits)?;
            return Ok((spec, mask, Some(range)));
        }
        (_, _, Some(_)) => return unsupported(ErrorKind::ItemLast, "ranges are not supported"),
        (None, Some(_), None) => return refuse(ErrorKind::ItemSpec, "a mask without a value"),
        (Some(_), None, None) => return refuse(ErrorKind::ItemMask, "a value without a mask"),
        (Some(spec), Some(mask), None) => (spec, mask),
    };
    let (mut left, content) = (layer.of_item(mask), layer.of_item(spec));
    let known = left;
    for (at, len, grain) in fields(layer) {
        let Some(bytes) = left.get_mut(*at..at + len) else { continue };
        if !is_allowed(bytes, *grain) {
            return unsupported(ErrorKind::ItemMask, "a field can't be compared by these bits alone");
        }
        bytes.fill(0);
    }
    // Bits of fields that can't be compared, and bits of the structure that mean nothing here.
    let means_nothing = !is_whole(mask, &known) || !is_whole(spec, &content);
    if left.iter().any(|byte| *byte != 0) || means_nothing {
        return unsupported(ErrorKind::ItemMask, "a field can't be compared");
    }
    if content.iter().zip(&known).any(|(spec, mask)| spec & !mask != 0) {
        return refuse(ErrorKind::ItemSpec, "the value has bits outside of its mask");
    }
    Ok((content, known, None))
}

/// Values, mask, and a range beside them.
type Ranged = (Vec<u8>, Vec<u8>, (u16, u16));

/// Values and mask without the length of an IP header, and the range that it has to be in.
fn range(layer: Layer, [spec, mask, last]: [&[u8]; 3], limits: &Limits<'_>) -> Result<Ranged, FlowError> {
    let at = match layer {
        Layer::Ipv4 if limits.lengths => 2,
        Layer::Ipv6 if limits.lengths => 4,
        _ => return unsupported(ErrorKind::ItemLast, "ranges are not supported"),
    };
    // What has no range is 0, or as it is anyway.
    let mut others = last.iter().zip(spec).enumerate().filter(|(place, _)| !(at..at + 2).contains(place));
    if others.any(|(_, (last, spec))| *last != 0 && last != spec) {
        return unsupported(ErrorKind::ItemLast, "no ranges are supported but of lengths");
    }
    let half = |bytes: &[u8]| bytes.get(at..at + 2).map_or(0, |half| u16::from_be_bytes([half[0], half[1]]));
    let (least, most) = (half(spec), half(last));
    if half(mask) != u16::MAX || most < least {
        return refuse(
            ErrorKind::ItemLast,
            "a range is of all bits, and its end is not before its beginning",
        );
    }
    let without = |bytes: &[u8]| {
        let keep = |(place, byte): (usize, &u8)| if (at..at + 2).contains(&place) { 0 } else { *byte };
        bytes.iter().enumerate().map(keep).collect()
    };
    Ok((without(spec), without(mask), (least, most)))
}

/// Whether all bits of a C structure are in its content.
fn is_whole(bytes: &[u8], content: &Content) -> bool {
    let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    ones(content) == ones(bytes)
}

/// Whether the next header is the one that the header before it announces, as far as that is compared.
fn agree(pattern: &Pattern, next: Layer) -> Result<(), FlowError> {
    let (Some((before, mask)), Some((_, spec))) = (pattern.shape.last(), pattern.specs.last()) else {
        return Ok(());
    };
    let (at, len, wanted): (usize, usize, &[&[u8]]) = match (before, next) {
        (Layer::Eth, Layer::Tag(_)) => (12, 2, &[&[0x81, 0], &[0x88, 0xa8]]),
        (Layer::Tag(_), Layer::Tag(_)) => (2, 2, &[&[0x81, 0]]),
        (Layer::Eth, Layer::Ipv4) => (12, 2, &[&[8, 0]]),
        (Layer::Eth, Layer::Ipv6) => (12, 2, &[&[0x86, 0xdd]]),
        (Layer::Tag(_), Layer::Ipv4) => (2, 2, &[&[8, 0]]),
        (Layer::Tag(_), Layer::Ipv6) => (2, 2, &[&[0x86, 0xdd]]),
        (Layer::Ipv4, Layer::Tcp) => (9, 1, &[&[6]]),
        (Layer::Ipv4, Layer::Udp) => (9, 1, &[&[17]]),
        (Layer::Ipv6, Layer::Tcp) => (6, 1, &[&[6]]),
        (Layer::Ipv6, Layer::Udp) => (6, 1, &[&[17]]),
        _ => return Ok(()),
    };
    if mask[at..at + len].iter().all(|byte| *byte == 0) || wanted.contains(&&spec[at..at + len]) {
        return Ok(());
    }
    refuse(ErrorKind::ItemSpec, "an item contradicts the one before it")
}
