//! The NUMA node that the flow table belongs on.

use std::collections::BTreeMap;
use std::fs;

/// The node of most of these cores; the lowest of several. `None` where the kernel tells of none.
pub(super) fn node_of(cores: &[u16]) -> Option<u32> {
    most(cores.iter().filter_map(|core| node_of_core(*core)))
}

/// As sysfs has it: a link named after the node.
fn node_of_core(core: u16) -> Option<u32> {
    let links = fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")).ok()?;
    links.flatten().find_map(|link| link.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

fn most(nodes: impl Iterator<Item = u32>) -> Option<u32> {
    let mut counts = BTreeMap::new();
    for node in nodes {
        *counts.entry(node).or_insert(0) += 1;
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_of_most_and_of_several_the_lowest() {
        assert_eq!(most([].into_iter()), None);
        assert_eq!(most([1, 0, 1].into_iter()), Some(1));
        assert_eq!(most([1, 0, 0, 1].into_iter()), Some(0));
    }

    #[test]
    fn a_core_that_is_not_there_is_on_no_node() {
        assert_eq!(node_of(&[u16::MAX]), None);
    }
}
