"""Programs that mean harm, in JavaScript, and how each must end. Numbers are those of the design's hostile list.

`OK` means that the program may succeed: then the listed output is the honest one.
"""

from __future__ import annotations

from typing import NamedTuple

from windlass.runtimes.failures import (
    BAD_CODE,
    BAD_OUTPUT,
    NEVER_SETTLED,
    OUT_OF_MEMORY,
    OUTPUT_TOO_LARGE,
    SANDBOX_CRASHED,
    STACK_OVERFLOW,
    TIMEOUT,
    USER_ERROR,
)

OK = "OK"


class Hostile(NamedTuple):
    """A program and the ways in which it may end."""

    name: str
    source: str | bytes
    ends: tuple[str, ...]
    #: Where it ends well: its output, as JSON text.
    output: str = ""


def _every(name: str, ends: tuple[str, ...], *sources: str, output: str = "") -> list[Hostile]:
    return [Hostile(f"{name}_{place}", source, ends, output) for place, source in enumerate(sources)]


_TIME = (TIMEOUT,)
_MEMORY = (OUT_OF_MEMORY,)
_DEEP = (STACK_OVERFLOW, OUT_OF_MEMORY)

LISTED: list[Hostile] = [
    *_every(
        "01_loop",
        _TIME,
        "while(true);",
        "for(;;){try{while(true);}catch(e){}}",
        "try{ while(true); } finally { while(true); }",
    ),
    *_every(
        "02_hidden_loop",
        _TIME,
        "({get a(){while(true);}}).a",
        "new Proxy({}, {get(){while(true);}}).a",
        "+{valueOf(){while(true);}}",
        "(0,eval)('while(true);')",
        "new Function('while(true);')()",
    ),
    *_every("03_regex", _TIME, "/^(a+)+$/.test('a'.repeat(40)+'b')", "/(x+x+)+y/.test('x'.repeat(60))"),
    *_every(
        "04_native_loop",
        (*_TIME, OUT_OF_MEMORY),
        "Array.prototype.includes.call({length:2**53-1},1)",
        "new Array(4294967295).join('x')",
        "const a=[];a[4294967290]=1;a.sort()",
        "const b=[];b[4294967290]=1;b.reverse()",
    ),
    Hostile(
        "04_native_loop_concat", "[].concat({length:2**53-1,[Symbol.isConcatSpreadable]:true})", (*_TIME, USER_ERROR)
    ),
    Hostile("05_bigint_power", "2n**(2n**30n)", (USER_ERROR, OUT_OF_MEMORY, SANDBOX_CRASHED, *_TIME)),
    Hostile("05_bigint_loop", "let x=3n;for(;;)x*=x", (USER_ERROR, OUT_OF_MEMORY, *_TIME)),
    *_every(
        "06_jobs",
        (*_TIME, OUT_OF_MEMORY),
        "(function f(){Promise.resolve().then(f)})(); new Promise(()=>{})",
        "(async()=>{for(;;) await 1})()",
        "(function f(){Promise.resolve().then(f);Promise.resolve().then(f)})(); new Promise(()=>{})",
        "(function f(){queueMicrotask(f)})(); new Promise(()=>{})",
    ),
    Hostile("07_swallowed", "(async()=>{for(;;){try{await (async()=>{while(true);})()}catch{}}})()", _TIME),
    *_every("08_thenable", _TIME, "({get then(){while(true);}})", "({then(){while(true);}})"),
    *_every(
        "09_never",
        (NEVER_SETTLED,),
        "new Promise(()=>{})",
        "async function run(){ await new Promise(()=>{}) }",
        "({then(){}})",
    ),
    *_every(
        "10_deep",
        (*_DEEP, USER_ERROR, BAD_CODE),
        "function f(){f()} f()",
        "[1,2].sort(function f(){return [1,2].sort(f)})",
        "const o={toString(){return ''+o}};''+o",
        "JSON.parse('['.repeat(1e6))",
        "(".join(["(0,eval)", "'('.repeat(1e6))"]),
        "let a=[];for(let i=0;i<1e5;i++)a=[a];JSON.stringify(a)",
    ),
    *_every(
        "11_bomb",
        _MEMORY,
        "const a=[];for(;;)a.push(new Array(1000).fill(1))",
        "const m=new Map();for(let i=0;;i++)m.set(i,'v'+i)",
        "let s='x';for(;;)s=s+s+s.slice(1)",
        "const l=[];for(;;)l.push(new ArrayBuffer(1e6))",
        "const y=[];for(;;)y.push(Symbol('s'.repeat(1000)))",
        "'x'.repeat(2**30)",
        "new ArrayBuffer(2**40)",
    ),
    Hostile(
        "12_caught_bomb",
        "const a=[];for(;;){try{a.push(new Array(1000).fill(1))}catch{}}",
        (*_TIME, OUT_OF_MEMORY, SANDBOX_CRASHED),
    ),
    *_every(
        "13_thrown",
        (USER_ERROR,),
        "throw null",
        "throw undefined",
        "throw 'x'",
        "throw Symbol('s')",
        "throw Object.create(null)",
        "throw 5n",
        "throw function f(){}",
    ),
    *_every(
        "13_thrown_in_a_microtask",
        (USER_ERROR,),
        *(
            "queueMicrotask(()=>{" + throws + "});new Promise(()=>{})"
            for throws in (
                "throw null",
                "throw 'null'",
                "throw 'out of memory'",
                "throw new Error('the shop is out of memory')",
                "throw new Error('stack overflow')",
            )
        ),
    ),
    *_every(
        "14_hook",
        _TIME,
        "throw {toJSON(){while(true);}}",
        "throw Object.defineProperty(new Error('e'),'stack',{get(){while(true);}})",
        "throw new Proxy({}, {get(){while(true);},getPrototypeOf(){while(true);}})",
        "class E extends Error{get message(){while(true);}} ; const e=new Error();Object.setPrototypeOf(e,E.prototype);"
        "delete e.message;throw e",
        "InternalError.prototype.toString=()=>{for(;;);};for(;;);",
        "Object.prototype[Symbol.toPrimitive]=()=>{for(;;);};for(;;);",
    ),
    Hostile("14_to_string_is_not_asked", "throw {toString(){while(true);}}", (USER_ERROR,)),
    Hostile("15_to_json_throws", "({toJSON(){throw new Error('no')}})", (USER_ERROR,)),
    Hostile("15_to_json_loops", "({toJSON(){while(true);}})", _TIME),
    *_every("16_no_value", (USER_ERROR,), "const o={};o.o=o;o", "5n", "({a:[1n]})"),
    Hostile("16_not_a_number", "[NaN,Infinity,undefined,()=>1,Symbol()]", (OK,), "[null,null,null,null,null]"),
    Hostile("16_minus_zero", "-0", (OK,), "0"),
    Hostile("16_date", "new Date(0)", (OK,), '"1970-01-01T00:00:00.000Z"'),
    Hostile("17_output", "'x'.repeat(5e6)", (OUTPUT_TOO_LARGE,)),
    Hostile("17_output_wide", "Array(3e5).fill('é\\u4e2d')", (OUTPUT_TOO_LARGE, OUT_OF_MEMORY)),
    Hostile("17_lines", "for(let i=0;i<1e5;i++)console.log('line');1", (OK, *_TIME), "1"),
    Hostile("17_long_line", "console.log('x'.repeat(4e6));1", (OK,), "1"),
    Hostile("18_half_character", "'\\ud800a'", (OK,), '"\\ufffda"'),
    Hostile("18_half_character_in_a_log", "console.log('\\udc00');1", (OK,), "1"),
    Hostile("18_nul", "'\\0'", (OK,), '"\\u0000"'),
    Hostile("18_not_utf8", b"'\xff'", (BAD_CODE,)),
    Hostile("18_nul_in_source", "1\0", (BAD_CODE,)),
    *_every(
        "19_tampering",
        (OK,),
        "Object.prototype.output=1;JSON.stringify=()=>'\"forged\"';1",
        "Array.prototype.push=()=>{throw 1};Array.prototype.join=()=>'x';1",
        "Promise.prototype.then=()=>{for(;;);};1",
        "Reflect.apply=()=>'x';String.prototype.slice=()=>'x';1",
        "Object.defineProperty(Array.prototype,0,{set(){throw 1},get(){return 9}});console.log(1);1",
        "Object.prototype.get=()=>9;Object.prototype.set=()=>9;Object.prototype.value=9;1",
        "globalThis.eval=()=>9;globalThis.Error=null;globalThis.String=()=>'x';1",
        output="1",
    ),
    Hostile("20_forged", "({output:1,failure:null,patch:{a:1}})", (OK,), '{"output":1,"failure":null,"patch":{"a":1}}'),
    Hostile("20_run_is_a_getter", "Object.defineProperty(globalThis,'run',{get(){return 5}});1", (BAD_CODE,)),
    Hostile("20_run_loops", "Object.defineProperty(globalThis,'run',{get(){for(;;);}});1", _TIME),
    Hostile("20_deletes", "delete globalThis.console;delete globalThis.ctx;delete globalThis.input;1", (OK,), "1"),
    Hostile("21_import", "import('/etc/passwd')", (USER_ERROR,)),
    *_every(
        "21_host", (USER_ERROR,), "std.open()", "os.exec(['ls'])", "require('fs')", "process.env", "fetch('http://x')"
    ),
    Hostile("22_wait", "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)),0,0)", (USER_ERROR,)),
    *_every("23_bad", (BAD_CODE,), "let = = 1", "", "   \n ", "const run = 5", "x" * (2 << 20), "function ("),
    Hostile(
        "24_proxies", "let p=[];for(let i=0;i<3e5;i++)p=new Proxy(p,{});Array.isArray(p)", (*_DEEP, USER_ERROR, OK)
    ),
    Hostile("24_bound", "let f=()=>1;for(let i=0;i<2e5;i++)f=f.bind();f()", (*_DEEP, USER_ERROR, OK, *_TIME)),
    Hostile("41_deep_result", "let a=[];for(let i=0;i<5000;i++)a=[a];a", (*_DEEP, USER_ERROR, BAD_OUTPUT)),
]

INVENTED: list[Hostile] = [
    *_every(
        "generator",
        (*_TIME, OUT_OF_MEMORY),
        "function*g(){for(;;)yield 1};for(const x of g());",
        "const[...r]={[Symbol.iterator]:()=>({next(){for(;;);}})}",
        "Array.from({length:2**32-1},()=>{})",
    ),
    *_every(
        "async_iteration",
        _TIME,
        "(async()=>{for await(const x of (async function*(){for(;;)yield 1})());})()",
        "async function run(){for(;;)await Promise.all([1,2,3])}",
        "(async()=>{await{then(r){for(;;);}}})()",
    ),
    *_every(
        "string_work",
        (*_TIME, OUT_OF_MEMORY, OUTPUT_TOO_LARGE, OK),
        "let s='ab'.repeat(1e5);for(;;)s.replaceAll('a','b')",
        "for(;;)'x'.repeat(1e6).split('').reverse().join('')",
        "for(;;)JSON.parse('['+'1,'.repeat(1e4)+'1]')",
        "'a'.repeat(1e5).replace(/a*?$/g,()=>'b'.repeat(1e4))",
        "for(;;)encodeURIComponent('é'.repeat(1e5))",
        "for(;;)'x'.repeat(1e6).localeCompare('x'.repeat(1e6))",
    ),
    *_every(
        "number_work",
        (*_TIME, OUT_OF_MEMORY, USER_ERROR),
        "for(;;)(1e308).toFixed(100)",
        "(2n**100000n).toString().repeat(1e9)",
        "for(let x=1n;;x<<=1000n)x.toString()",
        "BigInt('9'.repeat(1e6))**2n",
    ),
    *_every(
        "typed_array",
        (*_TIME, OUT_OF_MEMORY, USER_ERROR),
        "new Uint8Array(2**33)",
        "for(;;)new Float64Array(1e5).sort()",
        "for(;;)new Uint8Array(1e6).fill(1).indexOf(2)",
        "const b=new ArrayBuffer(8,{maxByteLength:2**40});b.resize(2**39)",
    ),
    *_every(
        "thrown_late",
        (USER_ERROR,),
        "async function run(){await 1;throw new Error('late')}",
        "Promise.reject(new TypeError('no'))",
        "throw new AggregateError([new Error('a')],'many')",
        "({then(a,b){b(new Error('rejected'))}})",
        "throw new (class extends Error{get name(){throw 1}})('x')",
    ),
    *_every(
        "hooked_result",
        (*_TIME,),
        "new Proxy({}, {ownKeys(){for(;;);}})",
        "({get a(){for(;;);}})",
        "[1].map.call({length:1,get 0(){for(;;);}},x=>x)",
        "({then:null,toJSON:new Proxy(function(){},{apply(){for(;;);}})})",
    ),
    *_every(
        "limits_of_ctx",
        (USER_ERROR,),
        "for(let i=0;i<1e5;i++)ctx.set('k'+i,'v'.repeat(100))",
        "for(;;)ctx.spawn('child',{a:1})",
        "for(;;)ctx.heartbeat('x'.repeat(1000))",
        "ctx.heartbeat('x'.repeat(1e5))",
        "ctx.heartbeat('\u4e2d'.repeat(34000))",
        "ctx.progress(2)",
        "ctx.spawn('')",
        "ctx.set(5, 1)",
        "ctx.waitFor([])",
        "ctx.waitFor('paid',{timeout:NaN})",
        "ctx.escalate({to:'alice',message:'m',timeout:-Infinity})",
        "ctx.suspend(1,{after:Infinity})",
        "throw ctx.fail('LATER','',{nextDelay:NaN})",
        "ctx.escalate({})",
        "ctx.spawn('child', 1, {colour: 'red'})",
        "throw ctx.fail('lower case')",
        "throw ctx.fail('OK', '', {nextDelay: -5})",
        "for(let i=0;i<2000;i++)ctx.route('a')",
    ),
    *_every(
        "ctx_abuse",
        (OK,),
        "ctx.get=()=>9;ctx.log=null;1",
        "const c=ctx;Object.setPrototypeOf(c,null);c.set('__proto__',{polluted:1});({}).polluted===undefined?1:0",
        "for(let i=0;i<1e4;i++)ctx.progress(0.5,'x');1",
        "ctx.get('constructor')===undefined&&ctx.get('__proto__')===undefined?1:0",
        "ctx.log({toJSON(){return 'x'}});ctx.log('info','a',{a:1});1",
        "console.log({get a(){throw 1}},Symbol('s'),null,undefined,[1,[2]],new Error('e'),()=>1,5n);1",
        output="1",
    ),
    *_every(
        "reach_for_the_host",
        (OK,),
        "typeof $host==='undefined'&&typeof H==='undefined'?1:0",
        "(function(){try{return arguments.callee.caller}catch{return null}})()==null?1:0",
        "Error.prepareStackTrace=(e,f)=>f;const s=new Error().stack;Array.isArray(s)||typeof s==='string'?1:0",
        "Object.getOwnPropertyNames(globalThis).filter(n=>/host|quickjs|std|bjson/i.test(n)).length===0?1:0",
        "typeof performance==='undefined'&&typeof Atomics==='undefined'&&typeof SharedArrayBuffer==='undefined'?1:0",
        "new Function('return this')()===globalThis?1:0",
        "Date.now()===Date.now()&&new Date().getTime()===Date.now()?1:0",
        output="1",
    ),
    *_every(
        "host_protocol",
        (OK,),
        "globalThis.$default=undefined;1",
        "globalThis.__proto__={};1",
        "Object.freeze(globalThis);1",
        "Object.seal(Object.prototype);Object.freeze(Array.prototype);1",
        "Object.defineProperty(Object.prototype,'toJSON',{value:undefined});1",
        output="1",
    ),
    Hostile(
        "frozen_default", "Object.defineProperty(globalThis,'$default',{get(){throw new Error('x')}});1", (USER_ERROR,)
    ),
    Hostile("to_json_on_the_prototype", "Object.prototype.toJSON=function(){return 'mine'};({a:1})", (OK,), '"mine"'),
    Hostile("symbols_only", "({[Symbol('a')]:1})", (OK,), "{}"),
    Hostile("sparse", "const a=[];a[3]=1;a", (OK,), "[null,null,null,1]"),
    Hostile("prototype_key", 'JSON.parse(\'{"__proto__":{"x":1}}\')', (OK,), '{"__proto__":{"x":1}}'),
    Hostile(
        "finalizers", "for(let i=0;i<1e4;i++)new FinalizationRegistry(()=>{for(;;);}).register({},1);1", (OK,), "1"
    ),
    Hostile("weak", "for(let i=0;i<1e4;i++)new WeakRef({a:i}).deref();1", (OK,), "1"),
    Hostile("sloppy_with", "with({a:1}){a}", (OK,), "1"),
    Hostile("labels", "a:for(;;){b:for(;;){break a}};1", (OK,), "1"),
    Hostile(
        "huge_switch", "switch(1){" + "".join(f"case {n}:" for n in range(20000)) + "};1", (OK, BAD_CODE, *_TIME), "1"
    ),
    Hostile(
        "many_locals",
        "{" + "".join(f"let v{n}={n};" for n in range(30000)) + "};1",
        (OK, BAD_CODE, *_DEEP, *_TIME),
        "1",
    ),
    Hostile("deep_braces", "{" * 20000 + "}" * 20000, (BAD_CODE, *_DEEP, USER_ERROR, OK), "null"),
    Hostile("deep_brackets", "[" * 50000 + "]" * 50000, (BAD_CODE, *_DEEP, USER_ERROR)),
    Hostile("deep_template", "`${" * 5000 + "1" + "}`" * 5000, (BAD_CODE, *_DEEP, USER_ERROR, OK), '"1"'),
    Hostile("unclosed_regex", "export default /[" + "a" * 1000, (BAD_CODE,)),
    Hostile("unclosed_template", "export default `" + "a${" * 1000, (BAD_CODE, *_DEEP)),
    Hostile("many_exports", "export const a=1;" * 2000, (BAD_CODE,)),
    Hostile("private_chain", "class A{#a=1;static b(o){return #a in o}};A.b(new A())?1:0", (OK,), "1"),
    *_every(
        "answers_otherwise_when_asked_again",
        (USER_ERROR,),
        "let n=0;throw Object.defineProperty(new Error('x'),'stack',{get(){return n++?{}:''}})",
        "let n=0;throw Object.defineProperty(new Error('x'),'stack',{get(){return n++?{toJSON(){}}:''}})",
    ),
    *_every(
        "breaks_what_the_host_writes",
        (OK,),
        "let n=0;ctx.log({toString(){return n++?'info\",\"'+'x'.repeat(3e5)+'\"],[\"warn':'info'}},'a');1",
        "let n=0;ctx.log({toString(){return n++?'\"':'info'}},'a');1",
        "Object.prototype.toJSON=()=>7;ctx.progress(0.5);1",
        output="1",
    ),
    Hostile(
        "is_given_functions_of_the_host",
        "const found=[];Error.prepareStackTrace=(e,frames)=>{for(const f of frames)found.push(f.getFunction())};"
        "new Error().stack;found.length",
        (OK,),
        "0",
    ),
    *_every(
        "names_that_cost_more_than_values",
        (USER_ERROR,),
        "for(let i=0;i<5;i++)ctx.set('k'.repeat(1e6)+i,1)",
        "for(let i=0;i<3e5;i++)ctx.set('k'+i,1)",
    ),
    *[
        Hostile(f"just_too_deep_{n}", f"let a=[];for(let i=0;i<{n};i++)a=[a];a", (BAD_OUTPUT, *_DEEP))
        for n in (990, 1000)
    ],
    Hostile("thrown_in_a_job", "queueMicrotask(()=>{throw new Error('late')});new Promise(()=>{})", (USER_ERROR,)),
    *_every(
        "slow_to_read",
        (BAD_CODE,),
        "run;" + "\\'" * 100_000,
        "run;" + "=/[" * 100_000,
        "run;" + "a/*" * 100_000,
        "export default function" + " " * 200_000 + "(",
        "export {" + "a" * 200_000 + "};let = =",
        "let = =" + "\n \n" * 60_000,
    ),
    Hostile("getter_input", "Object.defineProperty(globalThis,'input',{get(){for(;;);}});1", (OK,), "1"),
]
