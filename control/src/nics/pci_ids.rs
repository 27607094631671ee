//! Names of PCI devices, from the list that Debian's `pci.ids` and others install.

use crate::host::Host;

const LISTS: [&str; 2] = ["usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids"];

/// The list, empty where there is none.
pub(super) struct Names(String);

impl Names {
    pub(super) fn of(host: &Host<'_>) -> Self {
        // Some distributions have bytes in it that are no UTF-8.
        let list = LISTS.iter().find_map(|path| host.bytes(path)).unwrap_or_default();
        Self(String::from_utf8_lossy(&list).into_owned())
    }

    /// A vendor stands at the beginning of its line, its devices below it behind a tab, subsystems behind two.
    pub(super) fn of_device(&self, vendor: &str, device: &str) -> Option<String> {
        let mut lines = self.0.lines().skip_while(|line| !line.starts_with(vendor));
        let maker = lines.next()?.get(vendor.len()..)?.trim();
        let mut devices = lines.take_while(|line| line.starts_with(['\t', '#']));
        let name = devices.find_map(|line| line.strip_prefix('\t')?.strip_prefix(device))?.trim();
        Some(format!("{maker} {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_below_its_vendor() {
        let list = "# pci.ids\n8085  Other\n\t10c9  Wrong\n8086  Intel Corporation\n\t10c8  A\n\t10c9  82576\n\t\t10c9 0001  Sub\n# end\n1af4  Red Hat\n\t1041  Virtio\n";
        let names = Names(list.to_owned());
        assert_eq!(names.of_device("8086", "10c9").as_deref(), Some("Intel Corporation 82576"));
        assert_eq!(names.of_device("8086", "1041"), None, "another vendor's");
        assert_eq!(names.of_device("abcd", "1041"), None);
        assert_eq!(Names(String::new()).of_device("8086", "10c9"), None);
    }
}
