//! A session with a token: what the module is asked for.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11},
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use reeve_ca::{KeyName, SIGNATURE_BYTES, VaultError};
use zeroize::Zeroizing;

use crate::TokenAddress;

/// The curve P-256, as CKA_EC_PARAMS has it: its object identifier in DER (RFC 5480 section 2.1.1.1).
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// An uncompressed point of it as CKA_EC_POINT has it: an octet string of 65 bytes in DER.
const OCTET_STRING: [u8; 2] = [0x04, 65];
/// Bytes of such a point.
const POINT: usize = 65;
/// Bytes of a key's identifier.
const ID: usize = 16;
/// What keys are called, for people who look into the token.
const LABEL: &str = "reeve authority";

/// An open session with its module. Dropped, both end, so that the next one finds tokens that have come since.
pub(crate) struct Open {
    address: TokenAddress,
    module: Pkcs11,
    session: Option<Session>,
    keys: HashMap<String, ObjectHandle>,
}

impl Open {
    /// Loads the module, finds the token, logs in. `refused` is the PIN that the token has refused before.
    pub(crate) fn new(
        address: &TokenAddress,
        refused: &mut Option<Zeroizing<String>>,
    ) -> Result<Self, VaultError> {
        let away = |why: String| away(address, why);
        let module = Pkcs11::new(&address.module).map_err(|error| away(error.to_string()))?;
        let flags = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match module.initialize(flags) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(away(error.to_string())),
        }
        let mut open = Self {
            address: address.clone(),
            module,
            session: None,
            keys: HashMap::new(),
        };
        open.session = Some(open.log_in(refused)?);
        Ok(open)
    }

    fn log_in(&self, refused: &mut Option<Zeroizing<String>>) -> Result<Session, VaultError> {
        let slots = self.module.get_slots_with_initialized_token();
        let slots = slots.map_err(|error| self.away(&error))?;
        let ours = slots.into_iter().find(|slot| {
            let info = self.module.get_token_info(*slot);
            info.is_ok_and(|info| info.label() == self.address.token)
        });
        let slot =
            ours.ok_or_else(|| away(&self.address, "the module has no such token".to_owned()))?;
        let pin = self
            .address
            .pin
            .read()
            .map_err(|error| away(&self.address, error.to_string()))?;
        if refused.as_ref() == Some(&pin) {
            let why = "it refused the PIN, which is not tried again until it is another one";
            return Err(away(&self.address, why.to_owned()));
        }
        let session = self
            .module
            .open_rw_session(slot)
            .map_err(|error| self.away(&error))?;
        match session.login(UserType::User, Some(&AuthPin::from(pin.as_str()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => {
                if let Error::Pkcs11(RvError::PinIncorrect | RvError::PinLocked, _) = error {
                    *refused = Some(pin);
                }
                Err(self.away(&error))
            }
        }
    }

    fn session(&self) -> Result<&Session, VaultError> {
        let none = || away(&self.address, "there is no session".to_owned());
        self.session.as_ref().ok_or_else(none)
    }

    /// Makes a key pair and makes sure that the private key cannot leave.
    pub(crate) fn make(&mut self) -> Result<(KeyName, [u8; POINT]), VaultError> {
        let mut id = [0; ID];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| VaultError::Memory)?;
        let named = [
            Attribute::Id(id.to_vec()),
            Attribute::Label(LABEL.into()),
            Attribute::Token(true),
        ];
        let public = [
            Attribute::EcParams(P256.to_vec()),
            Attribute::Verify(true),
            Attribute::Private(false),
        ];
        let private = [
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        let (public, private) = (
            [&named[..], &public].concat(),
            [&named[..], &private].concat(),
        );
        let made = self
            .session()?
            .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
        let (public, private) = made.map_err(|error| self.away(&error))?;
        let id = hex::encode(id);
        let point = self.stays(private).and_then(|()| self.point(public));
        let point = point.inspect_err(|_| drop(self.destroy(&id)))?;
        self.keys.insert(id.clone(), private);
        let name = KeyName {
            id,
            public_key: hex::encode(point),
        };
        Ok((name, point))
    }

    /// What was asked for is looked at: tokens may take less than they are told.
    fn stays(&self, private: ObjectHandle) -> Result<(), VaultError> {
        let wanted = [
            (
                AttributeType::NeverExtractable,
                Attribute::NeverExtractable(true),
            ),
            (
                AttributeType::AlwaysSensitive,
                Attribute::AlwaysSensitive(true),
            ),
            (AttributeType::Local, Attribute::Local(true)),
        ];
        let asked = wanted.each_ref().map(|(kind, _)| *kind);
        let found = self.session()?.get_attributes(private, &asked);
        let found = found.map_err(|error| self.away(&error))?;
        match wanted.iter().all(|(_, wanted)| found.contains(wanted)) {
            true => Ok(()),
            false => Err(self.unfit("it made a key that could leave it")),
        }
    }

    fn point(&self, public: ObjectHandle) -> Result<[u8; POINT], VaultError> {
        let found = self
            .session()?
            .get_attributes(public, &[AttributeType::EcPoint]);
        let found = found.map_err(|error| self.away(&error))?;
        let point = match found.as_slice() {
            // Some tokens leave the octet string out, whose tag a point may begin with too.
            [Attribute::EcPoint(point)] if point.len() == POINT => point,
            [Attribute::EcPoint(der)] => der.strip_prefix(&OCTET_STRING).unwrap_or_default(),
            _ => &[],
        };
        point
            .try_into()
            .map_err(|_| self.unfit("it made a key of another kind"))
    }

    /// Signs; r and s.
    pub(crate) fn sign(
        &mut self,
        id: &str,
        message: &[u8],
    ) -> Result<[u8; SIGNATURE_BYTES], VaultError> {
        let key = self.key(id)?;
        let hash = digest(&SHA256, message);
        let signature = self.session()?.sign(&Mechanism::Ecdsa, key, hash.as_ref());
        let signature = signature.map_err(|error| self.away(&error))?;
        signature
            .as_slice()
            .try_into()
            .map_err(|_| self.unfit("its signature has another form"))
    }

    /// Whether the key is there, looked up anew.
    pub(crate) fn check(&mut self, id: &str) -> Result<(), VaultError> {
        self.keys.remove(id);
        self.key(id).map(drop)
    }

    fn key(&mut self, id: &str) -> Result<ObjectHandle, VaultError> {
        if let Some(key) = self.keys.get(id) {
            return Ok(*key);
        }
        let found = self.find(id, Some(ObjectClass::PRIVATE_KEY))?;
        let [key] = found.as_slice() else {
            return Err(VaultError::NoSuchKey {
                vault: self.address.to_string(),
                id: id.to_owned(),
            });
        };
        self.keys.insert(id.to_owned(), *key);
        Ok(*key)
    }

    fn find(&self, id: &str, class: Option<ObjectClass>) -> Result<Vec<ObjectHandle>, VaultError> {
        let bytes = hex::decode(id).unwrap_or_default();
        // SECURITY: an empty identifier would match what is not ours.
        if bytes.len() != ID {
            return Ok(Vec::new());
        }
        let mut template = vec![Attribute::Id(bytes), Attribute::Label(LABEL.into())];
        template.extend(class.map(Attribute::Class));
        let found = self.session()?.find_objects(&template);
        found.map_err(|error| self.away(&error))
    }

    /// Ends a key for good, both halves.
    pub(crate) fn destroy(&mut self, id: &str) -> Result<(), VaultError> {
        self.keys.remove(id);
        for object in self.find(id, None)? {
            let destroyed = self.session()?.destroy_object(object);
            destroyed.map_err(|error| self.away(&error))?;
        }
        Ok(())
    }

    fn away(&self, error: &Error) -> VaultError {
        away(&self.address, error.to_string())
    }

    fn unfit(&self, why: &str) -> VaultError {
        VaultError::Unfit {
            vault: self.address.to_string(),
            why: why.to_owned(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.session.take());
        if self.module.is_fn_supported(Function::Finalize)
            && let Err(error) = self.module.clone().finalize()
        {
            tracing::debug!(%error, "the module of a token did not end in order");
        }
    }
}

pub(crate) fn away(address: &TokenAddress, why: String) -> VaultError {
    VaultError::Away {
        vault: address.to_string(),
        why,
    }
}
