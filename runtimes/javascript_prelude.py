"""The JavaScript that stands between the host and the author's code, in every fresh context.

Theory of operation. One function, `host`, is all that Python ever calls, and it takes and gives strings only: the
binding's conversions of other values have no time limit, and some of them crash. `host(0, …)` evaluates the source,
calls `run` or the default export, and returns the whole outcome as JSON text, or "" when a promise is open; then Python
runs the job queue and asks with `host(1)`. `host(2)` salvages the logs of an attempt that was interrupted.

House rules for this file:

1. Everything of the language's library that is used after the author's code began was captured before it (in `H`).
   No method is called on a value (`x.slice()` could be theirs): `apply(slice, x, …)`. Lists are built as text, because
   `list[n] = x` runs a setter that they may have put on `Array.prototype`. Records have a null prototype.
2. An interrupt cannot be caught by JavaScript, so a `try` here is never a hiding place, and none is needed for it.
3. Compiling costs about 55 µs per kB, and most tasks use little of this. So only `PRELUDE` is compiled in every
   context; the `PARTS` (`console`, `ctx`, `Date`, …) are handed over as strings and evaluated when first touched. A
   part is a function of `H` and reaches nothing else, because by then the global names may be the author's.
4. Functions that may be under way when something throws are called `$host…`: those frames are left out of the stack of
   an error, and what lies below `$host` itself, too.
5. A value of theirs is looked at once: a getter, a `toString` or a `toJSON` may answer something else the second time.
   Text that is put together here holds only what `stringify` made of a string, a number, or the value itself.
6. None of this is reachable for them. `Error.prepareStackTrace` would be handed every function on the stack.
"""

from __future__ import annotations

import re
from typing import Final

from windlass.runtimes.port import CHECKPOINT_BYTES_MAX

_CONSOLE: Final = """
(H=>{'use strict';
const $hostShow=v=>{if(typeof v==='string')return v;
 try{if(typeof v!=='object'||v===null)return H.S(v);
  if(v instanceof H.E){const s=v.stack;return H.S(v)+(typeof s==='string'?'\\n'+s:'')}
  const s=H.stringify(v);if(s!==undefined)return s}catch(_){}
 try{return H.S(v)}catch(_){return '[unprintable]'}};
const line=level=>function $hostLog(...a){let s='';
 for(let i=0;i<a.length;i++)s+=(i?' ':'')+$hostShow(a[i]);(H.log??=H.part(@LOG))(level,s,'')};
return {log:line('info'),info:line('info'),debug:line('debug'),trace:line('debug'),
 warn:line('warn'),error:line('error')}})
"""

# A line that does not fit is cut where the room ends; from then on lines are only counted.
_LOG: Final = """
(H=>{'use strict';return function $hostLine(level,text,meta){
if(H.lines<1||H.room<1){H.lost++;return}
if(text.length+meta.length>H.room){text=H.apply(H.slice,text,[0,H.room]);meta='';H.room=0;H.lost++}
H.lines--;H.room-=text.length+meta.length;
H.logs+=(H.logs&&',')+'["'+level+'",'+H.stringify(text)+(meta&&','+meta)+']'}})
"""

# `Date` without arguments and `Date.now` give the start of the task: no clock finer than that reaches the code.
_DATE: Final = """
(H=>{'use strict';const {D,def,now,construct}=H;
function Date(...a){if(new.target===undefined)return new D(now).toString();
 return construct(D,a.length?a:[now],new.target)}
Date.prototype=D.prototype;Date.now=function now$(){return now};Date.parse=D.parse;Date.UTC=D.UTC;
def(Date,'length',{__proto__:null,value:7});def(Date.now,'name',{__proto__:null,value:'now'});
def(D.prototype,'constructor',{__proto__:null,value:Date,writable:true,configurable:true});return Date})
"""

# sfc32: four words of state, no multiplication. Weak references would show when memory is collected, so they go too.
_SEEDED: Final = """
(H=>{'use strict';delete globalThis.WeakRef;delete globalThis.FinalizationRegistry;
let [a,b,c,d]=H.parse(H.meta).seed;
const next=()=>{const t=(a+b|0)+d|0;d=d+1|0;a=b^b>>>9;b=c+(c<<3)|0;c=(c<<21|c>>>11)+t|0;return t>>>0};
for(let i=0;i<12;i++)next();Math.random=function random(){return next()/4294967296}})
"""

_FAILURE: Final = """
(H=>e=>{'use strict';
let name='',message='',stack='',own='null';
try{
 for(let m=H.marks;m!==null;m=m.next)if(m.error===e)own=m.own;
 if(e!==null&&typeof e==='object'&&e instanceof H.E){
  name=H.S(e.name);message=H.S(e.message);const s=e.stack;if(typeof s==='string')stack=s}
 else if(typeof e==='object'&&e!==null){const s=H.stringify(e);message=s===undefined?H.S(e):s}
 else message=H.S(e)
}catch(_){message=message||'the thrown value cannot be described'}
const cut=(s,n)=>H.stringify(s.length>n?H.apply(H.slice,s,[0,n]):s);
return '{"failure":{"thrown":'+(e===null?'"null"':'"'+typeof e+'"')+',"name":'+cut(name,200)+
 ',"message":'+cut(message,8000)+',"stack":'+cut(stack,8000)+',"own":'+own+'}'})
"""

# `await` and not `value.then`: it takes a native promise without asking the author's `Promise.prototype.then`.
_SETTLE: Final = """
(H=>(value,finish,failure)=>{'use strict';
(async function $hostSettle(){try{H.done=finish(await value)}catch(e){H.done=failure(e)}})()})
"""

_CONTEXT: Final = """
(H=>{'use strict';const {parse,stringify,apply,S,T}=H,meta=parse(H.meta);
const json=H.json=function $hostJson(v){const s=stringify(v);return s===undefined?'null':s};
H.text=function $hostText(v,what){if(typeof v!=='string'||v==='')
 throw new T('ctx.'+what+' must be a string that is not empty');return v};
H.fit=function $hostFit(s){H.used+=s.length;if(H.used>H.max)
 throw new T('ctx: more than '+H.max+' bytes of context values, asks and checkpoints');return s};
H.asks='';const patch={__proto__:null};let progress='',last='',reports=0,checkpoint='';
const small=function $hostSmall(s){let n=s.length;
 for(let i=0;3*s.length>LIMIT&&i<s.length&&n<=LIMIT;i++){
  const c=apply(H.unit,s,[i]);if(c>127)n+=c>2047&&(c<55296||c>57343)?2:1}
 if(n>LIMIT)throw new T('ctx.heartbeat: the checkpoint is too large; the limit is LIMIT bytes');return s};
const context=meta.context,has=k=>apply(H.own,context,[k]);
const levels={__proto__:null,debug:1,info:1,warn:1,error:1};
H.tail=()=>{let p='';for(const k in patch)p+=(p&&',')+stringify(k)+':'+patch[k];
 return ',"patch":{'+p+'},"asks":['+H.asks+'],"progress":['+progress+(last&&progress&&',')+last+']'+
 (checkpoint&&',"checkpoint":'+checkpoint)};
return {
 namespace:meta.namespace,runId:meta.run_id,definition:meta.definition,state:meta.state,visit:meta.visit,path:meta.path,
 attempt:meta.attempt,maxAttempts:meta.max_attempts,idempotencyKey:meta.idempotency_key,startTime:H.now,
 run_id:meta.run_id,max_attempts:meta.max_attempts,idempotency_key:meta.idempotency_key,
 checkpoint:meta.checkpoint===null?undefined:meta.checkpoint,
 get:function $hostGet(key){key=S(key);return key in patch?parse(patch[key]):has(key)?context[key]:undefined},
 set:function $hostSet(key,value){H.fit(json(H.text(key,'set: the key')));patch[key]=H.fit(json(value))},
 log:function $hostLog(level,message,metadata){
  if(typeof message!=='string'||typeof level!=='string'||!(level in levels)){
   metadata=message;message=level;level='info'}
  (H.log??=H.part(@LOG))(level,typeof message==='string'?message:json(message),metadata===undefined?'':json(metadata))},
 progress:function $hostProgress(fraction,message){
  fraction=+fraction;if(!(fraction>=0&&fraction<=1))throw new T('ctx.progress: the fraction must lie between 0 and 1');
  const s='['+fraction+','+json(message===undefined?'':apply(H.slice,S(message),[0,1000]))+']';
  if(reports++<200)progress+=(progress&&',')+s;else last=s},
 heartbeat:function $hostHeartbeat(value){if(value!==undefined)checkpoint=H.fit(small(json(value)))},
 resumeState:function $hostResumeState(){return meta.resume===null?undefined:meta.resume}}})
""".replace("LIMIT", str(CHECKPOINT_BYTES_MAX))

_ASKS: Final = """
(H=>{'use strict';const {text,json}=H,
timed=function $hostTimed(o,name){const n=o[name];if(typeof n==='number'&&n-n!==0)
 throw new H.T('ctx: '+name+' is '+n+'; give a duration like "5s", or milliseconds');return o},
ask=function $hostAsk(o){H.asks+=(H.asks&&',')+H.fit(json(timed(timed(o,'timeout'),'after')))};
return {__proto__:null,
 spawn:function $hostSpawn(workflow,input,options){
  ask({...options,kind:'spawn',workflow:text(workflow,'spawn: the workflow'),input:input===undefined?null:input})},
 waitFor:function $hostWaitFor(signals,options){
  ask({...options,kind:'wait_for',signals:typeof signals==='string'?[signals]:signals})},
 escalate:function $hostEscalate(request){ask({...request,kind:'escalate'})},
 suspend:function $hostSuspend(state,options){ask({...options,kind:'suspend',state:state===undefined?null:state})},
 route:function $hostRoute(name){ask({kind:'route',name:text(name,'route: the name')})},
 fail:function $hostFail(code,message,options){
  const error=new H.E(message===undefined?code:H.S(message));
  H.def(error,'name',{__proto__:null,value:text(code,'fail: the code'),writable:true,configurable:true});
  H.marks={__proto__:null,error,own:H.fit(json(timed({code,...options},'nextDelay'))),next:H.marks};return error}}})
"""

# `ctx` itself is a husk: each of its names fetches the part that has it, once. Most functions use two of them.
_HUSK: Final = """
(H=>{'use strict';const ctx={},{def,part}=H;let base=null,asks=null;
const husk=(names,fetch)=>{for(let i=0;i<names.length;i++){const name=names[i];
 const become=value=>def(ctx,name,{__proto__:null,value,writable:true,configurable:true,enumerable:true});
 def(ctx,name,{__proto__:null,configurable:true,enumerable:true,set:become,
 get(){const value=fetch()[name];become(value);return value}})}};
const own=()=>base===null?base=part(@CONTEXT):base;
husk(['namespace','runId','definition','state','visit','path','attempt','maxAttempts','idempotencyKey','startTime','run_id',
'max_attempts','idempotency_key','checkpoint','get','set','log','progress','heartbeat','resumeState'],own);
husk(['spawn','waitFor','escalate','suspend','route','fail'],()=>{own();return asks===null?asks=part(@ASKS):asks});
return ctx})
"""

_NAMED: Final = {
    "CONSOLE": _CONSOLE,
    "LOG": _LOG,
    "DATE": _DATE,
    "SEEDED": _SEEDED,
    "FAILURE": _FAILURE,
    "SETTLE": _SETTLE,
    "HUSK": _HUSK,
    "CONTEXT": _CONTEXT,
    "ASKS": _ASKS,
}
# A part is named in the source as `@NAME`, and by where it lies in `PARTS` in what is run. The places have a fixed
# width, so that putting them in moves nothing.
_PLACE_WIDTH: Final = 11
_WIDENED: Final = re.compile(r"@([A-Z]+)")
_texts: Final = {
    name: _WIDENED.sub(lambda found: found[0].ljust(_PLACE_WIDTH, "#"), part.strip()) for name, part in _NAMED.items()
}
_joined: Final = "".join(_texts.values())


def _placed(source: str) -> str:
    """Return `source` with every `@NAME` replaced by the two arguments of `H.part`: from where to where."""

    def place(found: re.Match[str]) -> str:
        start = _joined.index(_texts[found[1]])
        return f"{start},{start + len(_texts[found[1]])}".ljust(_PLACE_WIDTH)

    return re.sub(r"@([A-Z]+)#*", place, source)


#: Handed over by `javascript.py` with every activation: one string is cheaper than nine.
PARTS: Final = _placed(_joined)

PRELUDE: Final = _placed("""
(()=>{'use strict';
const G=globalThis,{parse,stringify}=JSON,{apply,construct,defineProperty:def}=Reflect,run=eval;
def(Error,'prepareStackTrace',{__proto__:null,get(){},set(){}});
const P=InternalError.prototype;P.toString=Error.prototype.toString;P[Symbol.toPrimitive]=undefined;Object.freeze(P);
const H={__proto__:null,parse,stringify,apply,construct,def,E:Error,T:TypeError,S:String,D:Date,O:Object,slice:''.slice,
unit:''.charCodeAt,own:Object.prototype.hasOwnProperty,used:0,marks:null,tail:null,log:null,logs:'',lost:0,done:'',
part:(a,b)=>run(apply(H.slice,H.parts,[a,b]))(H)};
const lazy=(name,a,b)=>{const set=value=>def(G,name,{__proto__:null,value,writable:true,configurable:true});
def(G,name,{__proto__:null,configurable:true,set,get(){const v=H.part(a,b);set(v);return v}})};
const flat=s=>apply(H.slice,s+(H.tail===null?'':H.tail())+',"lost":'+H.lost+',"logs":['+H.logs+']}',[0]);
const $hostFinish=v=>{const s=stringify(v)??'null';return flat(s.length>H.max?'{"size":'+s.length:'{"output":'+s)};
const failure=e=>flat(H.part(@FAILURE)(e));
return function $host(op,source,input,config,meta,now,max,lines,room,clock,seeded,parts){
if(op)return op<2?H.done:flat('{"output":null');
H.meta=meta;H.now=+now;H.max=max;H.lines=lines;H.room=room;H.parts=parts;
delete G.performance;delete G.Atomics;delete G.SharedArrayBuffer;delete G.__date_clock;
lazy('console',@CONSOLE);lazy('ctx',@HUSK);if(!clock)lazy('Date',@DATE);if(seeded)H.part(@SEEDED);
G.$default=undefined;
try{const given=G.input=parse(input);G.config=parse(config);
let value=run(source);const made=G.$default,main=made===undefined?G.run:made;
if(typeof main==='function')value=main(given,G.ctx);
else if(main!==undefined){if(made===undefined)return flat('{"notrun":"'+typeof main+'"');value=made}
if(H.O(value)===value&&typeof value.then==='function'){H.part(@SETTLE)(value,$hostFinish,failure);return H.done}
return $hostFinish(value)}catch(e){return failure(e)}}})()
""").strip()
