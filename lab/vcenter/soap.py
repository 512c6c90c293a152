"""vSphere's SOAP: parses requests into pyVmomi objects, serialises results and faults to XML.

pyVmomi implements only the client's side. Its deserialiser is used here by treating a method's
parameters as a data object, its serialiser by calling it for each value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from io import StringIO
from typing import Any, ClassVar, TypeVar
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape

from pyVmomi import vim, vmodl
from pyVmomi.SoapAdapter import (
    SOAP_END,
    SOAP_NSMAP,
    SOAP_START,
    XML_HEADER,
    XMLNS_SOAPENV,
    ExpatDeserializerNSHandlers,
    SetHandlers,
    SoapDeserializer,
    SoapSerializer,
)
from pyVmomi.Version import IsChildVersion
from pyVmomi.VmomiSupport import (
    F_OPTIONAL,
    DataObject,
    GetWsdlMethod,
    GuessWsdlMethod,
    ManagedObject,
    Object,
    versionMap,
)

T = TypeVar("T", bound=DataObject)

NAMESPACE = "urn:vim25"
SERVER_VERSION = "vim.version.v8_0_3_0"
_NS_MAP = {**SOAP_NSMAP, NAMESPACE: ""}
_BODY = f"{XMLNS_SOAPENV} Body"


class BadRequestError(Exception):
    """The request is not valid SOAP for any version of vSphere."""


class RawXml(str):
    """A result that is serialised already: the children of the response element."""


@dataclass(frozen=True)
class Request:
    """A call. ``info`` is pyVmomi's method description (None for an unknown method)."""

    method: str
    info: Any
    this: Any
    params: Any
    version: str


def parse_request(body: bytes, soap_action: str) -> Request:
    """Read one call. Raises BadRequestError, or vmodl.fault.InvalidRequest as vCenter would."""
    reader = _RequestReader()
    try:
        reader.read(body)
    except ExpatError as error:
        raise BadRequestError(f"not XML: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if reader.info is None and reader.method not in ("", "Fetch"):
            raise vmodl.fault.MethodNotFound(
                receiver=vim.ServiceInstance("ServiceInstance"), method=reader.method
            ) from error
        raise vmodl.fault.InvalidRequest(msg=f"Error in parsing the request: {error}") from error
    params = reader.params.result if reader.params is not None else None
    if params is None or params._this is None:
        raise BadRequestError("no call in the envelope's body")
    return Request(reader.method, reader.info, params._this, params, _version(soap_action))


def response(method: str, result: object, info: Any, version: str) -> bytes:
    """A successful answer. ``result`` is what ``info`` declares, or RawXml."""
    if isinstance(result, RawXml):
        inner: str = result
    elif result is None:
        inner = ""
    else:
        field = Object(
            name="returnval", type=info.result, version=version, flags=info.resultFlags | F_OPTIONAL
        )
        inner = serialize(result, field, version)
    text = f'<{method}Response xmlns="{NAMESPACE}">{inner}</{method}Response>'
    return f"{XML_HEADER}\n{SOAP_START}{text}{SOAP_END}".encode()


def fault_response(fault: Exception, version: str = SERVER_VERSION) -> bytes:
    """An answer that raises ``fault`` (a vmodl.MethodFault) at the caller."""
    message = fault.msg or type(fault)._wsdlName  # type: ignore[attr-defined]
    detail = serialize_fault(fault, f"{type(fault)._wsdlName}Fault", version)  # type: ignore[attr-defined]
    text = (
        "<soapenv:Fault><faultcode>ServerFaultCode</faultcode>"
        f"<faultstring>{escape(message)}</faultstring>"
        f"<detail>{detail}</detail></soapenv:Fault>"
    )
    return f"{XML_HEADER}\n{SOAP_START}{text}{SOAP_END}".encode()


_constants: dict[int, DataObject] = {}


def constant(value: T) -> T:
    """Mark a data object that never changes, so that its XML is built only once.

    The devices that every VM has are two thirds of a VM's configuration.
    """
    _constants[id(value)] = value
    return value


class _Serializer(SoapSerializer):
    """pyVmomi's serialiser, with a cache for constants."""

    _known: ClassVar[dict[tuple[object, ...], str]] = {}

    def __init__(self, version: str) -> None:
        super().__init__(StringIO(), version, _NS_MAP)  # type: ignore[no-untyped-call]
        # Namespaces are declared by the envelope.
        self.outermostAttrs = ""

    def _SerializeDataObject(self, val: Any, info: Any, attr: str, currDefNS: str) -> None:
        serialize_anew: Any = super()._SerializeDataObject
        if id(val) not in _constants:
            serialize_anew(val, info, attr, currDefNS)
            return
        key = (id(val), self.version, info.name, info.type, attr, currDefNS)
        text = self._known.get(key)
        if text is None:
            outer, self.writer = self.writer, StringIO()
            serialize_anew(val, info, attr, currDefNS)
            text = self._known[key] = self.writer.getvalue()
            self.writer = outer
        self.writer.write(text)


def serialize(value: object, field: Any, version: str) -> str:
    """One element, in the namespace that the response element declares."""
    serializer: Any = _Serializer(version)
    serializer.Serialize(value, field)
    text: str = serializer.writer.getvalue()
    return text


@lru_cache
def _any_field(name: str, version: str) -> Any:
    return Object(name=name, type=object, version=version, flags=F_OPTIONAL)


def serialize_any(value: object, name: str, version: str) -> str:
    """An element with an xsi:type."""
    return serialize(value, _any_field(name, version), version)


def serialize_fault(fault: Exception, name: str, version: str) -> str:
    """A fault as the element of a SOAP fault's detail."""
    serializer: Any = _Serializer(version)
    attributes = f' xmlns="{NAMESPACE}"'
    # The message is sent as the SOAP fault's faultstring.
    message, fault.msg = fault.msg, None  # type: ignore[attr-defined]
    try:
        serializer._SerializeDataObject(fault, _any_field(name, version), attributes, NAMESPACE)
    finally:
        fault.msg = message  # type: ignore[attr-defined]
    text: str = serializer.writer.getvalue()
    return text


class _RequestReader(ExpatDeserializerNSHandlers):
    """Finds the call in the envelope's body and passes it to pyVmomi's deserialiser."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.method = ""
        self.info: Any = None
        self.params: SoapDeserializer | None = None
        self._parser = ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._in_body = False

    def read(self, body: bytes) -> None:
        handlers = (
            self._start,
            self._end,
            self._text,
            self.StartNamespaceDeclHandler,
            self.EndNamespaceDeclHandler,
        )
        SetHandlers(self._parser, handlers)
        self._parser.Parse(body, True)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == _BODY:
            self._in_body = True
        elif self._in_body and self.params is None:
            namespace, _, self.method = tag.rpartition(" ")
            self.info = _method_info(namespace, self.method)
            self.params = SoapDeserializer(version=SERVER_VERSION)
            kind = _params_type(self.method)
            self.params.Deserialize(self._parser, kind, nsMap=self.nsMap)
            self.params.StartElementHandler(tag, attributes)

    def _end(self, tag: str) -> None:
        pass

    def _text(self, data: str) -> None:
        pass


def _method_info(namespace: str, name: str) -> Any:
    if name == "Fetch":
        return None
    try:
        return GetWsdlMethod(namespace, name).info
    except KeyError:
        try:
            return GuessWsdlMethod(name).info
        except KeyError:
            return None


@cache
def _params_type(method: str) -> type[DataObject]:
    """A data object type whose properties are the method's parameters and ``_this``."""
    version = SERVER_VERSION
    params: list[Any] = [
        Object(name="_this", type=ManagedObject, version=version, flags=F_OPTIONAL)
    ]
    info = _method_info(NAMESPACE, method)
    if method == "Fetch":
        params.append(Object(name="prop", type=str, version=version, flags=F_OPTIONAL))
    elif info is not None:
        params += [
            Object(name=p.name, type=p.type, version=p.version, flags=p.flags | F_OPTIONAL)
            for p in info.params
        ]
    attributes = {
        "_wsdlName": method,
        "_version": version,
        "_propList": params,
        "_propInfo": {p.name: p for p in params},
    }
    return type(f"{method}Params", (DataObject,), attributes)


@lru_cache
def _version(soap_action: str) -> str:
    """The client's API version, from ``"urn:vim25/8.0.3.0"``; the server's if unknown or newer."""
    name = soap_action.strip('" ').removeprefix("urn:")
    version = versionMap.get(name, SERVER_VERSION)
    return SERVER_VERSION if IsChildVersion(version, SERVER_VERSION) else version
