//! Why a driver refuses: the part of the rule that it names, its words, and the error number.

use std::ffi::CStr;
use std::fmt;

use dpdk_sys as sys;
use nix::errno::Errno;

/// The part of a rule that an error is about (`enum rte_flow_error_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing in particular.
    Unspecified,
    /// The rule as a whole.
    Handle,
    /// The group.
    Group,
    /// The priority.
    Priority,
    /// That it is for packets that come in.
    Ingress,
    /// That it is for packets that leave.
    Egress,
    /// That it is for all ports of a device.
    Transfer,
    /// The attributes.
    Attributes,
    /// How many items there are.
    ItemCount,
    /// What an item asks for.
    ItemSpec,
    /// The range that an item asks for.
    ItemLast,
    /// Which bits an item asks for.
    ItemMask,
    /// An item.
    Item,
    /// How many actions there are.
    ActionCount,
    /// How an action is configured.
    ActionConf,
    /// An action.
    Action,
    /// The state of the port.
    State,
}

impl ErrorKind {
    const ALL: [(Self, u32, &'static str); 17] = [
        (Self::Unspecified, sys::RTE_FLOW_ERROR_TYPE_UNSPECIFIED, "unspecified"),
        (Self::Handle, sys::RTE_FLOW_ERROR_TYPE_HANDLE, "rule"),
        (Self::Group, sys::RTE_FLOW_ERROR_TYPE_ATTR_GROUP, "group"),
        (Self::Priority, sys::RTE_FLOW_ERROR_TYPE_ATTR_PRIORITY, "priority"),
        (Self::Ingress, sys::RTE_FLOW_ERROR_TYPE_ATTR_INGRESS, "ingress"),
        (Self::Egress, sys::RTE_FLOW_ERROR_TYPE_ATTR_EGRESS, "egress"),
        (Self::Transfer, sys::RTE_FLOW_ERROR_TYPE_ATTR_TRANSFER, "transfer"),
        (Self::Attributes, sys::RTE_FLOW_ERROR_TYPE_ATTR, "attributes"),
        (Self::ItemCount, sys::RTE_FLOW_ERROR_TYPE_ITEM_NUM, "number of items"),
        (Self::ItemSpec, sys::RTE_FLOW_ERROR_TYPE_ITEM_SPEC, "value of an item"),
        (Self::ItemLast, sys::RTE_FLOW_ERROR_TYPE_ITEM_LAST, "range of an item"),
        (Self::ItemMask, sys::RTE_FLOW_ERROR_TYPE_ITEM_MASK, "mask of an item"),
        (Self::Item, sys::RTE_FLOW_ERROR_TYPE_ITEM, "item"),
        (Self::ActionCount, sys::RTE_FLOW_ERROR_TYPE_ACTION_NUM, "number of actions"),
        (Self::ActionConf, sys::RTE_FLOW_ERROR_TYPE_ACTION_CONF, "configuration of an action"),
        (Self::Action, sys::RTE_FLOW_ERROR_TYPE_ACTION, "action"),
        (Self::State, sys::RTE_FLOW_ERROR_TYPE_STATE, "state of the port"),
    ];

    fn from_raw(raw: u32) -> Self {
        Self::ALL
            .into_iter()
            .find(|(_, number, _)| *number == raw)
            .map_or(Self::Unspecified, |(kind, ..)| kind)
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(kind, ..)| *kind == self).map_or("unspecified", |(.., name)| name)
    }
}

/// Why a rule was refused, or something else could not be done with rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FlowError {
    /// What the driver objects to.
    pub kind: ErrorKind,
    /// What it says; empty if nothing.
    pub message: String,
    /// The error number.
    pub errno: Errno,
    /// Error lines that were logged meanwhile, where the driver gives no message.
    pub log: Vec<String>,
}

impl FlowError {
    /// An error with a message.
    pub fn new(kind: ErrorKind, errno: Errno, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno, log: Vec::new() }
    }

    /// There is no such rule, or none any more.
    pub fn no_such_rule() -> Self {
        Self::new(ErrorKind::Handle, Errno::ENOENT, "there is no such rule")
    }

    /// The port can't do this at all.
    pub fn unsupported() -> Self {
        Self::new(ErrorKind::Unspecified, Errno::ENOSYS, "Function not implemented")
    }

    /// Whether a NIC has no room for more rules.
    pub fn is_full(&self) -> bool {
        matches!(self.errno, Errno::ENOSPC | Errno::ENOMEM | Errno::ENFILE)
    }

    /// Whether a queue has no room for more operations now.
    pub fn is_busy(&self) -> bool {
        self.errno == Errno::EAGAIN
    }

    /// Whether the port has no such call, or none for this.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno, Errno::EOPNOTSUPP | Errno::ENOSYS)
    }

    /// From what a call returned and wrote.
    pub(in crate::dpdk) fn from_call(ret: i32, error: &sys::rte_flow_error, log: Vec<String>) -> Self {
        let message = if error.message.is_null() {
            String::new()
        } else {
            // SAFETY: drivers give string literals, or NULL.
            unsafe { CStr::from_ptr(error.message) }.to_string_lossy().into_owned()
        };
        Self {
            kind: ErrorKind::from_raw(error.type_),
            message,
            errno: Errno::from_raw(ret.saturating_abs()),
            log,
        }
    }
}

impl fmt::Display for FlowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != ErrorKind::Unspecified {
            write!(f, "{}: ", self.kind.name())?;
        }
        match (self.message.is_empty(), self.log.is_empty()) {
            // Drivers without rules have no words but these.
            (false, _) if self.message == self.errno.desc() => f.write_str(&self.message),
            (false, _) => write!(f, "{} ({:?})", self.message, self.errno),
            (true, false) => write!(f, "{} ({:?})", self.log.join("; "), self.errno),
            (true, true) => f.write_str(self.errno.desc()),
        }
    }
}
