//! The NICs that a gateway takes when it starts, and gives back where the configuration asks for that.

use super::binding::{BindError, Bound, Situation, Wish, bind, give_back};
use super::{Holder, Nic};
use crate::config::{Bind, Config, Device, PciAddress};
use crate::host::Host;

/// NICs of ports whose `bind` is not `manual`.
#[derive(Debug)]
pub struct Kept {
    nics: Vec<(PciAddress, Bind)>,
}

impl Kept {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let nics = config.ports.iter().filter_map(|port| match port.device {
            Device::Pci { address, .. } if port.bind != Bind::Manual => Some((address, port.bind)),
            _ => None,
        });
        Self { nics: nics.collect() }
    }

    /// Takes those that the kernel has.
    ///
    /// # Errors
    /// When one can't be taken. The others may have been.
    pub fn take(&self, host: &Host<'_>) -> Result<Vec<Bound>, BindError> {
        if self.nics.is_empty() {
            return Ok(Vec::new());
        }
        let situation = Situation::read(host);
        let mut taken = Vec::new();
        for (address, _) in &self.nics {
            let nic = Nic::at(host, *address)?;
            // One that has another driver of this kind was bound by somebody who wanted that.
            if matches!(nic.holder(), Holder::Kernel | Holder::Nobody) {
                taken.push(bind(host, nic, &Wish::default(), &situation)?);
            }
        }
        Ok(taken)
    }

    /// Gives back what is asked for: all of them if the gateway `failed`.
    pub fn give_back(&self, host: &Host<'_>, failed: bool) -> Vec<Result<Bound, BindError>> {
        let wanted = self.nics.iter().filter(|(_, bind)| failed || *bind == Bind::WhileRunning);
        let back = wanted.map(|(address, _)| give_back(host, Nic::at(host, *address)?, None));
        // Where the kernel still had it, nothing needs to be told.
        back.filter(|outcome| outcome.as_ref().map_or(true, Bound::changed)).collect()
    }
}
