//! From an [`Analyzer`] to the exports of a component.
//!
//! [`export!`](crate::export!) gives the component a place for its one instance; everything else
//! is written once here, for every [`Exported`] type. On other targets than wasm it makes
//! nothing, so that an analyzer also compiles natively, for its tests and for benches.

use std::cell::RefCell;
use std::thread::LocalKey;

use crate::bindings::diagnosis::exports::inspector::analyzer::diagnosis;
use crate::bindings::entity_watch::exports::inspector::analyzer::entity_watch;
use crate::bindings::exports::inspector::analyzer::guest;
use crate::bindings::snapshot::exports::inspector::analyzer::snapshot;
use crate::bindings::ticker::exports::inspector::analyzer::ticker;
use crate::instance::Instance;
use crate::{Analyzer, Description, EntityId, Error, InitArgs, Timestamp};

/// Turns an analyzer into a component. Only the hooks listed behind `with` are exported:
/// `ticker`, `entity_watch`, `diagnosis`, `snapshot`.
///
/// ```
/// # use inspector_sdk::{Analyzer, Description, Error, InitArgs};
/// struct Mine;
/// # impl Analyzer for Mine {
/// #     fn describe() -> Description { Description::new("mine", "1.0.0", "") }
/// #     fn init(_: &InitArgs) -> Result<Self, Error> { Ok(Self) }
/// # }
/// inspector_sdk::export!(Mine with ticker, entity_watch);
/// ```
#[macro_export]
macro_rules! export {
    ($analyzer:ident $(with $($hook:ident),+ $(,)?)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use ::std::{cell::RefCell, thread::LocalKey};
            use $crate::{bindings, export::Exported, instance::Instance};

            struct Component;

            impl Exported for Component {
                type Analyzer = $analyzer;

                fn instance() -> &'static LocalKey<RefCell<Option<Instance<$analyzer>>>> {
                    ::std::thread_local! {
                        static INSTANCE: RefCell<Option<Instance<$analyzer>>> = const { RefCell::new(None) };
                    }
                    &INSTANCE
                }
            }

            bindings::export_guest!(Component with_types_in bindings);
            $($(bindings::$hook::export!(Component with_types_in bindings::$hook);)+)?
        };
    };
}

/// The type that carries the exports; made by [`export!`](crate::export!).
pub trait Exported: 'static {
    /// The analyzer behind it.
    type Analyzer: Analyzer;

    /// Where its one instance lives.
    fn instance() -> &'static LocalKey<RefCell<Option<Instance<Self::Analyzer>>>>;
}

/// Runs `call` on the instance; an error if the host calls before `init`.
fn with<E: Exported, R>(call: impl FnOnce(&mut Instance<E::Analyzer>) -> R) -> Result<R, Error> {
    E::instance().with_borrow_mut(|instance| {
        let early = || Error::new("invalid", "called before init");
        instance.as_mut().map(call).ok_or_else(early)
    })
}

impl<E: Exported> guest::Guest for E {
    fn describe() -> Description {
        E::Analyzer::describe()
    }

    fn init(args: InitArgs) -> Result<(), Error> {
        let instance = Instance::init(&args)?;
        E::instance().set(Some(instance));
        Ok(())
    }

    fn on_batch(info: guest::Batch, data: Vec<u64>) -> Result<(), Error> {
        with::<E, _>(|instance| instance.on_batch(&info, &data))?
    }
}

impl<E: Exported> ticker::Guest for E {
    fn tick(now: Timestamp) {
        let _ = with::<E, _>(|instance| instance.hook(|analyzer| analyzer.tick(now)));
    }
}

impl<E: Exported> entity_watch::Guest for E {
    fn added(ids: Vec<EntityId>) {
        let _ = with::<E, _>(|instance| instance.hook(|analyzer| analyzer.added(&ids)));
    }

    fn removed(ids: Vec<EntityId>) {
        let _ = with::<E, _>(|instance| instance.removed(&ids));
    }
}

impl<E: Exported> diagnosis::Guest for E {
    fn run(request: diagnosis::Request) -> Result<diagnosis::Report, Error> {
        with::<E, _>(|instance| instance.hook(|analyzer| analyzer.diagnose(&request)))?
    }
}

impl<E: Exported> snapshot::Guest for E {
    fn save() -> Vec<u8> {
        with::<E, _>(|instance| instance.hook(|analyzer| analyzer.save())).unwrap_or_default()
    }

    fn restore(from_version: String, state: Vec<u8>) -> Result<(), Error> {
        with::<E, _>(|instance| instance.hook(|analyzer| analyzer.restore(&from_version, &state)))?
    }
}
