// SPDX-License-Identifier: GPL-2.0

//! The routes of a listener, and the selection of one for a request.
//!
//! A route has a key, a host and a path. Configuration keeps the routes sorted by key. Each change makes a new
//! [`Table`], and the data path uses the current one. Of several routes with the same key, the first is in the table
//! and the others wait. Only new routes can wait, because all begin with the same key.
//!
//! Context: process for changes, softirq for the choice. The mutex comes before the lock.

mod key;
mod table;

use self::{
    key::Part,
    table::Table, //
};
use super::route::Route;
use crate::{
    net::lock::{
        new_bh_lock,
        BhLock, //
    },
    proto::{
        self,
        request::Request,
        span::{
            Source,
            Span, //
        },
        target::Target, //
    }, //
};
use core::cmp::Ordering;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// Routes that a listener may have.
pub(crate) const ROUTES_MAX: usize = 1024;

/// A route with its key.
struct Place {
    host: Part,
    path: Part,
    route: Arc<Route>,
}

impl Place {
    /// Exchanges the parts of the key that are given.
    fn exchange(&mut self, host: &mut Option<Part>, path: &mut Option<Part>) {
        if let Some(host) = host {
            core::mem::swap(&mut self.host, host);
        }
        if let Some(path) = path {
            core::mem::swap(&mut self.path, path);
        }
    }

    fn compare(&self, other: &Place) -> Ordering {
        let host = self.host.compared().cmp(other.host.compared());
        host.then_with(|| self.path.compared().cmp(other.path.compared()))
    }
}

/// The routes of a listener.
#[pin_data]
pub(crate) struct Router {
    /// Sorted by key; routes of the same key by the time at which they got it.
    #[pin]
    places: Mutex<KVec<Place>>,
    #[pin]
    table: BhLock<Option<Arc<Table>>>,
}

impl Router {
    /// Makes a router without routes.
    pub(crate) fn new() -> impl PinInit<Router> {
        pin_init!(Router {
            places <- new_mutex!(KVec::new()),
            table <- new_bh_lock!(None),
        })
    }

    /// Adds a route, for any host and path; it waits if another one has that key.
    ///
    /// Fails with `ENOSPC` if there are [`ROUTES_MAX`].
    pub(crate) fn add(&self, route: Arc<Route>) -> Result {
        let place = Place {
            host: Part::host(b"")?,
            path: Part::path(b"/")?,
            route,
        };
        let mut places = self.places.lock();
        if places.len() >= ROUTES_MAX {
            return Err(ENOSPC);
        }
        places.reserve(1, GFP_KERNEL)?;
        let at = insert(&mut places, place)?;
        if !leads(&places, at) {
            return Ok(());
        }
        self.replace(&places).inspect_err(|_| {
            let _ = places.remove(at);
        })
    }

    /// Removes a route. A route that waits for its key gets it.
    pub(crate) fn remove(&self, route: &Route) {
        let mut places = self.places.lock();
        let Some(at) = position(&places, route) else {
            return;
        };
        // It gets nothing more, even if there is no memory for a new table.
        route.retire();
        let led = leads(&places, at);
        let _ = places.remove(at);
        if led && self.replace(&places).is_err() {
            pr_warn!("no memory to take a route out of its table; it stays there until the next change\n");
        }
    }

    /// Changes a route's key, or a part of it.
    ///
    /// Fails with `EINVAL` if a text is not valid in a key, with `EEXIST` if another route has the key, and with
    /// `ENOMEM`. The key then stays as it was.
    pub(crate) fn set(&self, route: &Route, host: Option<&[u8]>, path: Option<&[u8]>) -> Result {
        let mut host = host.map(Part::host).transpose()?;
        let mut path = path.map(Part::path).transpose()?;
        let mut places = self.places.lock();
        let at = position(&places, route).ok_or(ENOENT)?;
        let mut place = places.remove(at).map_err(|_| ENOENT)?;
        let same = |part: &Option<Part>, now: &Part| {
            let part = part.as_ref().map(Part::compared);
            part.is_none_or(|part| part == now.compared())
        };
        let same = same(&host, &place.host) && same(&path, &place.path);
        place.exchange(&mut host, &mut path);
        if same {
            return put(&mut places, at, place);
        }
        let to = insert(&mut places, place)?;
        let result = match leads(&places, to) {
            true => self.replace(&places),
            false => Err(EEXIST),
        };
        if result.is_err() {
            let mut place = places.remove(to).map_err(|_| ENOENT)?;
            place.exchange(&mut host, &mut path);
            put(&mut places, at, place)?;
        }
        result
    }

    /// Calls `show` with the host and the path of a route as they were written.
    pub(crate) fn with_key<R>(
        &self,
        route: &Route,
        show: impl FnOnce(&[u8], &[u8]) -> Result<R>,
    ) -> Result<R> {
        let places = self.places.lock();
        let at = position(&places, route).ok_or(ENOENT)?;
        let place = places.get(at).ok_or(ENOENT)?;
        show(place.host.text(), place.path.text())
    }

    /// Returns whether this route, and not another one with its key, is in the table.
    pub(crate) fn is_placed(&self, route: &Route) -> bool {
        let places = self.places.lock();
        position(&places, route).is_some_and(|at| leads(&places, at))
    }

    /// Puts a new table in force.
    fn replace(&self, places: &[Place]) -> Result {
        let table = Arc::new(Table::new(places)?, GFP_KERNEL)?;
        let old = self.table.lock().replace(table);
        drop(old);
        Ok(())
    }

    /// Finds the route of a request; `src` has the bytes of its head. `None` if there is no route.
    ///
    /// Fails with [`proto::Error::BadPath`] if the path decides and cannot be compared.
    pub(crate) fn find<S: Source + ?Sized>(
        &self,
        request: &Request,
        src: &S,
    ) -> Result<Option<Arc<Route>>, proto::Error> {
        self.find_by(request.host, request.target, src)
    }

    /// As [`Self::find`], for a request of which only this is known.
    pub(crate) fn find_by<S: Source + ?Sized>(
        &self,
        host: Option<Span>,
        target: Target,
        src: &S,
    ) -> Result<Option<Arc<Route>>, proto::Error> {
        let table = self.table.lock().clone();
        match table {
            Some(table) => table.find(host, target.path(), src),
            None => Ok(None),
        }
    }
}

fn position(places: &[Place], route: &Route) -> Option<usize> {
    places
        .iter()
        .position(|place| core::ptr::eq(&raw const *place.route, route))
}

/// Returns whether the route at this place is the first one with its key.
fn leads(places: &[Place], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| places.get(before));
    match (before, places.get(at)) {
        (Some(before), Some(place)) => before.compare(place).is_ne(),
        _ => true,
    }
}

/// Inserts a route behind those whose keys are not greater, and returns its place.
fn insert(places: &mut KVec<Place>, place: Place) -> Result<usize> {
    let at = places.partition_point(|other| other.compare(&place).is_le());
    put(places, at, place)?;
    Ok(at)
}

fn put(places: &mut KVec<Place>, at: usize, place: Place) -> Result {
    places.insert_within_capacity(at, place).map_err(|_| ENOSPC)
}
