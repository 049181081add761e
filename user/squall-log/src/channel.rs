// SPDX-License-Identifier: GPL-2.0
//! The netlink socket on which records arrive.

use crate::record::{self, Record};
use anyhow::{anyhow, bail, Context, Result};
use netlink_packet_core::{
    NetlinkBuffer, NetlinkMessage, NetlinkPayload, NlasIterator, NLM_F_REQUEST,
};
use netlink_packet_generic::{
    constants::{CTRL_ATTR_FAMILY_NAME, CTRL_CMD_DELFAMILY, GENL_ID_CTRL},
    ctrl::{
        nlas::{GenlCtrlAttrs, McastGrpAttrs},
        GenlCtrl, GenlCtrlCmd,
    },
    GenlMessage,
};
use netlink_sys::{protocols::NETLINK_GENERIC, Socket, SocketAddr};
use rustix::{
    event::{poll, PollFd, PollFlags},
    io::Errno,
    net::sockopt::set_socket_recv_buffer_size_force,
};
use std::{
    io::ErrorKind,
    os::fd::{AsFd, BorrowedFd},
};

const FAMILY: &str = "squall";
const GROUP: &str = "log";
/// The group in which the kernel tells of families that come and go; it has the number of the family.
const CONTROL_GROUP: u32 = GENL_ID_CTRL as u32;
/// Longer than any message.
const ROOM: usize = 1 << 16;
/// Length of the header of a generic netlink message.
const GENERIC_HEADER: usize = 4;

/// What arrives.
#[derive(Debug, PartialEq)]
pub enum Event {
    Record(Box<Record>),
    /// The module was unloaded.
    Gone,
}

/// A socket that follows the log.
pub struct Channel {
    socket: Socket,
    family: u16,
    buffer: Vec<u8>,
}

impl Channel {
    /// Follows the log from here on, with room for about so many bytes that wait to be taken.
    pub fn open(room: usize) -> Result<Channel> {
        let mut socket = Socket::new(NETLINK_GENERIC).context("cannot make a netlink socket")?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut channel = Channel {
            socket,
            family: 0,
            buffer: Vec::with_capacity(ROOM),
        };
        let group;
        (channel.family, group) = channel.resolve()?;
        // Without the right to exceed the system's limit, up to that.
        if set_socket_recv_buffer_size_force(channel.fd(), room).is_err() {
            channel.socket.set_rx_buf_sz(i32::try_from(room)?)?;
        }
        // What this socket does not get is counted by the module.
        channel.socket.set_broadcast_error(true)?;
        channel.socket.set_non_blocking(true)?;
        channel.socket.add_membership(CONTROL_GROUP)?;
        match channel.socket.add_membership(group) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                bail!("following the log needs CAP_NET_ADMIN")
            }
            result => result.context("cannot join the group of the log")?,
        }
        Ok(channel)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Asks for the numbers of the family and its group.
    fn resolve(&mut self) -> Result<(u16, u32)> {
        let mut request = NetlinkMessage::from(GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
        }));
        request.header.flags = NLM_F_REQUEST;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let answer = NetlinkMessage::<GenlMessage<GenlCtrl>>::deserialize(&self.buffer)
            .map_err(|error| anyhow!("the kernel's answer cannot be read: {error}"))?;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => numbers(&message.payload.nlas),
            NetlinkPayload::Error(error) if error.raw_code() == -Errno::NOENT.raw_os_error() => {
                bail!("the module squall is not loaded")
            }
            other => bail!("the kernel does not know of the family {FAMILY}: {other:?}"),
        }
    }

    /// Takes what has arrived; `None` if that is nothing.
    pub fn take(&mut self) -> Result<Option<Vec<Event>>> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return events(&self.buffer, self.family).map(Some),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The socket was full. The numbers of the next records tell how many were lost.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {}
                Err(error) => return Err(error).context("cannot read from the log"),
            }
        }
    }

    /// Waits until something has arrived; `false` if a signal came first, of which `signalled` tells.
    pub fn wait(&self, signalled: &impl AsFd) -> Result<bool> {
        let mut waits = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(signalled, PollFlags::IN),
        ];
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => Ok(waits[1].revents().is_empty()),
            Err(error) => Err(error).context("cannot wait"),
        }
    }
}

/// Finds the numbers of the family and its group in what the kernel says of it.
fn numbers(attributes: &[GenlCtrlAttrs]) -> Result<(u16, u32)> {
    let (mut family, mut group) = (None, None);
    for attribute in attributes {
        match attribute {
            GenlCtrlAttrs::FamilyId(id) => family = Some(*id),
            GenlCtrlAttrs::McastGroups(groups) => {
                let ours = |all: &&Vec<McastGrpAttrs>| {
                    all.iter()
                        .any(|it| matches!(it, McastGrpAttrs::Name(name) if name == GROUP))
                };
                group = groups.iter().find(ours).and_then(|all| {
                    all.iter().find_map(|it| match it {
                        McastGrpAttrs::Id(id) => Some(*id),
                        McastGrpAttrs::Name(_) => None,
                    })
                });
            }
            _ => {}
        }
    }
    family
        .zip(group)
        .with_context(|| format!("the family {FAMILY} has no group {GROUP}"))
}

/// Reads all messages of one datagram. Those that are not known are skipped.
fn events(mut bytes: &[u8], family: u16) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes)
            .map_err(|error| anyhow!("a message cannot be read: {error}"))?;
        let length = message.length() as usize;
        let payload = message.payload();
        if let [command, _, _, _, ..] = payload {
            let attributes = &payload[GENERIC_HEADER..];
            if message.message_type() == family {
                let record = record::decode(*command, attributes)?;
                events.extend(record.map(Box::new).map(Event::Record));
            } else if message.message_type() == GENL_ID_CTRL
                && *command == CTRL_CMD_DELFAMILY
                && names_family(attributes)
            {
                events.push(Event::Gone);
            }
        }
        // Messages begin at multiples of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(events)
}

fn names_family(attributes: &[u8]) -> bool {
    NlasIterator::new(attributes).flatten().any(|attribute| {
        let name = attribute.value().strip_suffix(b"\0");
        attribute.kind() == CTRL_ATTR_FAMILY_NAME && name == Some(FAMILY.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{attribute, message};

    #[test]
    fn several_messages_in_one_datagram() {
        let mut bytes = message(30, 1, &attribute(1, &7u32.to_ne_bytes()));
        bytes.extend(message(31, 1, &[]));
        bytes.extend(message(30, 99, &[]));
        bytes.extend(message(
            GENL_ID_CTRL,
            CTRL_CMD_DELFAMILY,
            &attribute(CTRL_ATTR_FAMILY_NAME, b"other\0"),
        ));
        bytes.extend(message(
            GENL_ID_CTRL,
            CTRL_CMD_DELFAMILY,
            &attribute(CTRL_ATTR_FAMILY_NAME, b"squall\0"),
        ));
        let events = events(&bytes, 30).unwrap();
        assert_eq!(events.len(), 2);
        assert!(matches!(&events[0], Event::Record(record) if record.cpu == 7));
        assert_eq!(events[1], Event::Gone);
    }

    #[test]
    fn cut_off_messages_are_an_error() {
        let whole = message(30, 1, &attribute(1, &7u32.to_ne_bytes()));
        for length in 1..whole.len() {
            assert!(events(&whole[..length], 30).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn the_number_of_the_group_is_that_of_its_name() {
        let group =
            |name: &str, id| vec![McastGrpAttrs::Name(name.to_owned()), McastGrpAttrs::Id(id)];
        let mut attributes = vec![
            GenlCtrlAttrs::FamilyId(30),
            GenlCtrlAttrs::McastGroups(vec![group("other", 8), group("log", 9)]),
        ];
        assert_eq!(numbers(&attributes).unwrap(), (30, 9));
        attributes[1] = GenlCtrlAttrs::McastGroups(vec![group("other", 8)]);
        assert!(numbers(&attributes).is_err());
    }
}
