/* A small call of a kernel from Python at the cost of its checks: `compressor_kernels._quick`.
 *
 * One row takes a microsecond or two in a kernel; as Python and ctypes, asking its tensors what they are takes four times
 * that. This module asks the same questions (quick.py has them in Python too) by the C interface of Python, and calls the
 * kernel by its address. A whole layer that is one such call is known too, for a module's call and its `forward` take
 * longer than the kernel. Python's limited interface alone, no headers of torch: one build serves all versions. What a
 * tensor is, its address, sides, strides and type, is read by DLPack's exchange interface, where a question to Python
 * takes a tenth of a microsecond.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000 /* 3.11 */
#include <Python.h>
#include <stdint.h>

enum { MOST_TABLES = 5, MOST_SIDES = 3, HOOKS = 4 };
enum { SMALL = 8192 /* numbers: other threads of Python can wait so long */ };

typedef int (*Forward)(const void* description, const void* x, void* y, int64_t rows, int64_t x_stride, int64_t y_stride,
                       int64_t threads, const void* pool);

/* DLPack's `DLTensor`: a tensor as it lies in memory, borrowed. */
typedef struct {
  void* data;
  int32_t device, device_index, sides;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t offset;
} View;

/* DLPack's `DLPackExchangeAPI`, up to what is called here. */
typedef struct {
  uint32_t major, minor;
  void *older, *allocate, *take, *give;
  int (*look)(void* tensor, View* view);
} Exchange;

enum { CPU = 1 /* of `View.device` */, FLOAT = 2 /* of `View.code` */ };

/* A table of a call, known weakly: it is the same while it is seen so. */
typedef struct {
  PyObject* reference; /* weak, or None */
  View view;
  int64_t shape[MOST_SIDES], strides[MOST_SIDES];
} Table;

/* A call that was made before. */
typedef struct {
  Forward forward;
  const void* description;
  PyObject* kept;     /* owns the description */
  PyObject* settings; /* what else the caller must give again */
  int64_t columns, outputs;
  Py_ssize_t count;
  Table tables[MOST_TABLES];
} Known;

/* A layer whose whole call was one that is known: for as many rows it is so again, while it holds what it held. */
typedef struct {
  PyObject* known;     /* the capsule */
  PyObject* reference; /* weak, to the layer: another may come to stand where it was */
  PyObject *type, *training;
  PyObject* config;
  PyObject* held; /* weak references to its parameters and buffers, or None, in their order */
  int64_t rows;
} Layer;

/* What `setup` was given: of torch, then of quick.py. */
static PyObject *Tensor, *exchange, *is_grad_enabled, *tracing_state, *has_transforms, *count_modes, *forward_ad,
    *count_threads, *empty, *is_neg, *global_hooks, *known_calls, *known_layers, *forgetting, *check;
static const Exchange* dlpack; /* what `exchange` holds */
static PyObject* text_current_level; /* made by PyInit__quick */
static PyObject *text_forward, *text_transform, *text_training, *text_config, *text_tensors[2], *text_hooks[HOOKS];

/* The last call that was known, while a layer is run that is not: what came in, what went out, what is known of it. */
static struct {
  int wanted;
  const PyObject* x;
  PyObject *y, *known;
  int64_t rows;
} last;

static void free_known(PyObject* capsule) {
  Known* known = PyCapsule_GetPointer(capsule, NULL);
  for (Py_ssize_t i = 0; i < known->count; i++) Py_XDECREF(known->tables[i].reference);
  Py_XDECREF(known->settings);
  Py_XDECREF(known->kept);
  PyMem_Free(known);
}

/* Whether `function(argument)` is `wanted`, which lives for ever; -1 for an exception. */
static int answers(PyObject* function, PyObject* argument, PyObject* wanted) {
  PyObject* found = argument ? PyObject_CallFunctionObjArgs(function, argument, NULL) : PyObject_CallNoArgs(function);
  if (!found) return -1;
  Py_DECREF(found);
  return found == wanted;
}

/* The number that an attribute holds, or a call gives; -2 with an exception set. */
static long number(PyObject* found) {
  if (!found) return -2;
  const long value = PyLong_AsLong(found);
  Py_DECREF(found);
  return value == -1 && PyErr_Occurred() ? -2 : value;
}

/* What a reference, or None for nothing, stands for, borrowed; NULL once it has died, which nothing is equal to. */
static PyObject* referent(PyObject* reference) {
  if (reference == Py_None) return reference;
  PyObject* found = PyWeakref_GetObject(reference);
  return found == Py_None ? NULL : found;
}

/* How a tensor lies in memory; false where it has none, as sparse ones have not. */
static int look(PyObject* tensor, View* view) {
  if (!dlpack->look(tensor, view)) return 1;
  PyErr_Clear();
  return 0;
}

static int describe_table(Table* table) {
  PyObject* tensor = referent(table->reference);
  if (tensor == Py_None) return 1;
  if (!tensor || !look(tensor, &table->view) || table->view.sides > MOST_SIDES) {
    PyErr_Format(PyExc_ValueError, "a table is a tensor of at most %d sides", MOST_SIDES);
    return 0;
  }
  for (int32_t i = 0; i < table->view.sides; i++)
    table->shape[i] = table->view.shape[i], table->strides[i] = table->view.strides[i];
  return 1;
}

static PyObject* describe(PyObject* self, PyObject* arguments) {
  (void)self;
  Py_ssize_t forward, description;
  long long columns, outputs;
  PyObject *kept, *settings, *references;
  if (!PyArg_ParseTuple(arguments, "nnOOLLO!", &forward, &description, &kept, &settings, &columns, &outputs,
                        &PyTuple_Type, &references))
    return NULL;
  const Py_ssize_t count = PyTuple_Size(references);
  if (count < 1 || count > MOST_TABLES) {
    PyErr_Format(PyExc_ValueError, "a call takes 1 to %d tables, not %zd", MOST_TABLES, count);
    return NULL;
  }
  Known* known = PyMem_Calloc(1, sizeof(Known));
  if (!known) return PyErr_NoMemory();
  known->forward = (Forward)forward, known->description = (const void*)description;
  known->kept = Py_NewRef(kept), known->settings = Py_NewRef(settings);
  known->columns = columns, known->outputs = outputs, known->count = count;
  for (Py_ssize_t i = 0; i < count; i++) known->tables[i].reference = Py_NewRef(PyTuple_GetItem(references, i));
  PyObject* capsule = PyCapsule_New(known, NULL, free_known);
  if (!capsule) PyMem_Free(known);
  for (Py_ssize_t i = 0; capsule && i < count; i++)
    if (!describe_table(&known->tables[i])) Py_CLEAR(capsule);
  return capsule;
}

/* Whether a table lies in memory as it did, and its numbers mean what they say; -1 for an exception. */
static int is_in_place(const Table* table, PyObject* tensor) {
  View view;
  const View* was = &table->view;
  if (!look(tensor, &view) || view.data != was->data || view.sides != was->sides || view.code != was->code ||
      view.bits != was->bits)
    return 0;
  for (int32_t i = 0; i < view.sides; i++)
    if (view.shape[i] != table->shape[i] || view.strides[i] != table->strides[i]) return 0;
  return view.code != FLOAT || answers(is_neg, tensor, Py_False); /* parts of complex numbers are negated lazily */
}

/* Whether all tables live where they were; -1 for an exception. */
static int are_in_place(const Known* known) {
  for (Py_ssize_t i = 0; i < known->count; i++) {
    PyObject* table = referent(known->tables[i].reference);
    if (!table) return 0;
    const int answer = table == Py_None ? 1 : is_in_place(&known->tables[i], table);
    if (answer != 1) return answer;
  }
  return 1;
}

/* Whether the tables are those of before. */
static int are_known(const Known* known, PyObject* const* tables, Py_ssize_t count) {
  if (count != known->count) return 0;
  for (Py_ssize_t i = 0; i < count; i++)
    if (referent(known->tables[i].reference) != tables[i]) return 0;
  return 1;
}

/* Whether nobody looks at what is computed: no trace, no transformation, no mode; -1 for an exception. */
static int is_plain(void) {
  int answer = answers(tracing_state, NULL, Py_None);
  if (answer == 1) answer = answers(has_transforms, NULL, Py_False);
  if (answer != 1) return answer;
  const long modes = number(PyObject_CallNoArgs(count_modes));
  if (modes) return modes == -2 ? -1 : 0;
  const long level = number(PyObject_GetAttr(forward_ad, text_current_level));
  return level == -2 ? -1 : level < 0;
}

/* Whether a tensor is of float32 in the CPU's memory. */
static int is_ours(const View* x) { return x->device == CPU && x->code == FLOAT && x->bits == 32; }

/* How many rows x has, all in order; 0 where it is no tensor for the kernels, -1 for an exception. */
static int64_t rows_of(PyObject* x, const Known* known, View* view) {
  if (!look(x, view) || !is_ours(view) || !view->sides || view->shape[view->sides - 1] != known->columns) return 0;
  int64_t numbers = 1;
  for (int32_t i = view->sides; i--; numbers *= view->shape[i])
    if (view->strides[i] != numbers && view->shape[i] != 1) return 0;
  const int answer = answers(is_neg, x, Py_False);
  return answer == 1 ? numbers / known->columns : answer;
}

/* Room for the result: of x's sides but for the last. NULL without an exception where torch makes new tensors of
 * another kind, as a default dtype or device has it do. Side by side, not as one tuple: torch reads those in a third of
 * the time. */
static PyObject* make_result(const View* x, const Known* known, View* view) {
  PyObject* sizes = PyTuple_New(x->sides);
  for (int32_t i = 0; sizes && i < x->sides; i++)
    PyTuple_SetItem(sizes, i, PyLong_FromLongLong(i + 1 < x->sides ? x->shape[i] : known->outputs));
  PyObject* y = sizes ? PyObject_Call(empty, sizes, NULL) : NULL;
  Py_XDECREF(sizes);
  if (y && !(look(y, view) && is_ours(view))) Py_CLEAR(y);
  return y;
}

/* The result for x; None where x is no tensor for the kernels, or has other rows than `*rows`, which is 0 for any. */
static PyObject* run(const Known* known, PyObject* x, int64_t* wanted) {
  View from, to;
  PyObject* y = NULL;
  const int64_t rows = rows_of(x, known, &from);
  if (rows > 0 && (!*wanted || rows == *wanted)) y = make_result(&from, known, &to);
  *wanted = rows;
  const long threads = y ? number(PyObject_CallNoArgs(count_threads)) : 0;
  if (threads == -2) Py_CLEAR(y);
  if (!y) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
  PyThreadState* state = rows * known->columns > SMALL ? PyEval_SaveThread() : NULL;
  const int error = known->forward(known->description, from.data, to.data, rows, known->columns, known->outputs,
                                   threads, NULL);
  if (state) PyEval_RestoreThread(state);
  if (!error) return y;
  Py_DECREF(y);
  PyObject* said = PyObject_CallFunction(check, "i", error);  /* raises */
  return said;
}

/* `run` where all tables live where they were, else None; held, for another thread may put others in their place. */
static PyObject* run_in_place(const Known* known, PyObject* x, int64_t* wanted) {
  PyObject* held[MOST_TABLES];
  for (Py_ssize_t i = 0; i < known->count; i++) held[i] = Py_XNewRef(referent(known->tables[i].reference));
  const int answer = are_in_place(known);
  PyObject* y = answer == 1 ? run(known, x, wanted) : answer ? NULL : Py_NewRef(Py_None);
  for (Py_ssize_t i = 0; i < known->count; i++) Py_XDECREF(held[i]);
  return y;
}

static void drop_last(void) {
  Py_CLEAR(last.y);
  Py_CLEAR(last.known);
}

/* call(x, outputs, settings, *tables) */
static PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  (void)self;
  if (count < 4) {
    PyErr_Format(PyExc_TypeError, "call takes x, outputs, settings and tables, not %zd arguments", count);
    return NULL;
  }
  PyObject *x = arguments[0], *settings = arguments[2];
  if ((PyObject*)Py_TYPE(x) != Tensor) return Py_NewRef(Py_None);
  int answer = answers(is_grad_enabled, NULL, Py_False);
  if (answer != 1) return answer < 0 ? NULL : Py_NewRef(Py_None);
  PyObject* key = PyLong_FromVoidPtr(arguments[3]);
  if (!key) return NULL;
  PyObject* capsule = PyDict_GetItemWithError(known_calls, key);
  Py_DECREF(key);
  if (!capsule) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
  Py_INCREF(capsule);  /* another thread may replace it */
  const Known* known = PyCapsule_GetPointer(capsule, NULL);
  answer = known ? are_known(known, arguments + 3, count - 3) : -1;
  if (answer == 1) answer = PyLong_AsLongLong(arguments[1]) == known->outputs ? 1 : PyErr_Occurred() ? -1 : 0;
  if (answer == 1 && settings != known->settings) answer = PyObject_RichCompareBool(settings, known->settings, Py_EQ);
  if (answer == 1) answer = is_plain();
  int64_t rows = 0;
  PyObject* y = answer == 1 ? run_in_place(known, x, &rows) : answer ? NULL : Py_NewRef(Py_None);
  if (last.wanted && y && y != Py_None) {
    drop_last();
    last.x = x, last.y = Py_NewRef(y), last.known = Py_NewRef(capsule), last.rows = rows;
  }
  Py_DECREF(capsule);
  return y;
}

static void free_layer(PyObject* capsule) {
  Layer* layer = PyCapsule_GetPointer(capsule, NULL);
  PyObject* const owned[] = {layer->known, layer->reference, layer->type, layer->training, layer->config, layer->held};
  for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) Py_XDECREF(owned[i]);
  PyMem_Free(layer);
}

/* Whether a call of the layer with these contents is its class's methods and nothing besides; -1 for an exception. */
static int is_bare(PyObject* contents) {
  for (int i = 0; i < HOOKS; i++) {
    PyObject* hooks = PyDict_GetItemWithError(contents, text_hooks[i]);
    if (!hooks || PyDict_Size(hooks) || PyDict_Size(PyTuple_GetItem(global_hooks, i))) return PyErr_Occurred() ? -1 : 0;
  }
  if (PyDict_GetItemWithError(contents, text_forward) || PyDict_GetItemWithError(contents, text_transform)) return 0;
  return PyErr_Occurred() ? -1 : 1;
}

/* Weak references to all that a layer with these contents holds, or None where it holds nothing. */
static PyObject* hold(PyObject* contents) {
  PyObject* held = PyList_New(0);
  for (int i = 0; held && i < 2; i++) {
    PyObject *tensors = PyDict_GetItemWithError(contents, text_tensors[i]), *key, *value;
    if (!tensors) Py_CLEAR(held);
    for (Py_ssize_t at = 0; held && PyDict_Next(tensors, &at, &key, &value);) {
      PyObject* reference = value == Py_None ? Py_NewRef(value) : PyWeakref_NewRef(value, NULL);
      if (!reference || PyList_Append(held, reference)) Py_CLEAR(held);
      Py_XDECREF(reference);
    }
  }
  return held;
}

/* Whether a layer with these contents holds what it held; -1 for an exception. */
static int still_holds(PyObject* contents, PyObject* held) {
  const Py_ssize_t count = PyList_Size(held);
  Py_ssize_t seen = 0;
  for (int i = 0; i < 2; i++) {
    PyObject *tensors = PyDict_GetItemWithError(contents, text_tensors[i]), *key, *value;
    if (!tensors) return PyErr_Occurred() ? -1 : 0;
    for (Py_ssize_t at = 0; PyDict_Next(tensors, &at, &key, &value); seen++)
      if (seen == count || value != referent(PyList_GetItem(held, seen))) return 0;
  }
  return seen == count;
}

/* Whether all tables of a call are among `held`, and not made for it out of those. */
static int are_held(const Known* known, PyObject* held) {
  for (Py_ssize_t i = 0; i < known->count; i++) {
    Py_ssize_t at = PyList_Size(held);
    while (at && referent(PyList_GetItem(held, at - 1)) != referent(known->tables[i].reference)) at--;
    if (!at && known->tables[i].reference != Py_None) return 0;
  }
  return 1;
}

/* The result of a layer that was found, None if it is not the same any more. */
static PyObject* run_layer(const Layer* found, PyObject* layer, PyObject* contents, PyObject* x) {
  const Known* known = PyCapsule_GetPointer(found->known, NULL);
  int answer = referent(found->reference) == layer && found->type == (PyObject*)Py_TYPE(layer) &&
               PyDict_GetItemWithError(contents, text_training) == found->training &&
               PyDict_GetItemWithError(contents, text_config) == found->config;
  if (answer == 1) answer = is_bare(contents);
  if (answer == 1) answer = still_holds(contents, found->held);
  if (answer == 1) answer = is_plain();
  int64_t rows = found->rows;
  return answer == 1 ? run_in_place(known, x, &rows) : PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* call_layer(layer, arguments, keywords): what the layer gives, if it is known; else None, and `learn` is next. */
static PyObject* call_layer(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  (void)self;
  if (count != 3) return PyErr_Format(PyExc_TypeError, "call_layer takes a layer, arguments and keywords");
  PyObject *layer = arguments[0], *x = PyTuple_Size(arguments[1]) == 1 ? PyTuple_GetItem(arguments[1], 0) : NULL;
  int answer = x && (PyObject*)Py_TYPE(x) == Tensor && !PyDict_Size(arguments[2]);
  if (answer == 1) answer = answers(is_grad_enabled, NULL, Py_False);
  last.wanted = answer == 1;
  drop_last();
  if (answer != 1) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
  PyObject* key = PyLong_FromVoidPtr(layer);
  PyObject* capsule = key ? PyDict_GetItemWithError(known_layers, key) : NULL;
  Py_XDECREF(key);
  PyObject* contents = capsule ? PyObject_GenericGetDict(layer, NULL) : NULL;
  if (!contents) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
  Py_INCREF(capsule); /* another thread may replace it */
  PyObject* y = run_layer(PyCapsule_GetPointer(capsule, NULL), layer, contents, x);
  Py_DECREF(contents);
  Py_DECREF(capsule);
  if (y && y != Py_None) last.wanted = 0;
  return y;
}

/* A capsule of the layer for the last call. */
static PyObject* describe_layer(PyObject* layer, PyObject* key, PyObject* contents, PyObject* held) {
  PyObject* forget = PyObject_CallFunctionObjArgs(forgetting, key, NULL);
  PyObject* reference = forget ? PyWeakref_NewRef(layer, forget) : NULL;
  Py_XDECREF(forget);
  if (!reference) return NULL;
  Layer* made = PyMem_Calloc(1, sizeof(Layer));
  if (!made) return PyErr_NoMemory();
  made->known = Py_NewRef(last.known), made->rows = last.rows, made->reference = reference;
  made->type = Py_NewRef((PyObject*)Py_TYPE(layer)), made->held = Py_NewRef(held);
  made->training = Py_XNewRef(PyDict_GetItemWithError(contents, text_training));
  made->config = Py_XNewRef(PyDict_GetItemWithError(contents, text_config));
  return PyCapsule_New(made, NULL, free_layer);
}

/* learn(layer, arguments, y): after `call_layer`; know the layer if all that it did was one call that is known. */
static PyObject* learn(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  (void)self;
  if (count != 3) return PyErr_Format(PyExc_TypeError, "learn takes a layer, arguments and what it gave for them");
  if (last.wanted && last.y && last.y == arguments[2] && PyTuple_GetItem(arguments[1], 0) == last.x) {
    PyObject *layer = arguments[0], *contents = PyObject_GenericGetDict(layer, NULL);
    PyObject* held = contents && is_bare(contents) == 1 ? hold(contents) : NULL;
    PyObject* key = held && are_held(PyCapsule_GetPointer(last.known, NULL), held) ? PyLong_FromVoidPtr(layer) : NULL;
    PyObject* capsule = key ? describe_layer(layer, key, contents, held) : NULL;
    if (capsule) PyDict_SetItem(known_layers, key, capsule);
    Py_XDECREF(capsule), Py_XDECREF(key), Py_XDECREF(held), Py_XDECREF(contents);
  }
  last.wanted = 0;
  drop_last();
  return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject* setup(PyObject* self, PyObject* arguments) {
  (void)self;
  PyObject** const places[] = {&Tensor, &exchange, &is_grad_enabled, &tracing_state, &has_transforms, &count_modes,
                               &forward_ad, &count_threads, &empty, &is_neg, &global_hooks, &known_calls,
                               &known_layers, &forgetting, &check};
  const Py_ssize_t count = sizeof places / sizeof *places;
  if (PyTuple_Size(arguments) != count) {
    PyErr_Format(PyExc_TypeError, "setup takes %zd arguments", count);
    return NULL;
  }
  for (Py_ssize_t i = 0; i < count; i++) *places[i] = Py_NewRef(PyTuple_GetItem(arguments, i));
  static const char name[] = "dlpack_exchange_api";
  dlpack = PyCapsule_IsValid(exchange, name) ? PyCapsule_GetPointer(exchange, name) : NULL;
  if (dlpack && dlpack->major == 1 && dlpack->look) return Py_NewRef(Py_None);
  PyErr_SetString(PyExc_ImportError, "this torch does not have DLPack's exchange interface of version 1");
  return NULL;
}

static PyMethodDef methods[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, "The result of a call that is known; None if it is not."},
    {"call_layer", (PyCFunction)(void (*)(void))call_layer, METH_FASTCALL, "The same of a layer that is known."},
    {"learn", (PyCFunction)(void (*)(void))learn, METH_FASTCALL, "Know a layer that was one call that is known."},
    {"describe", describe, METH_VARARGS, "What `call` must know of a call."},
    {"setup", setup, METH_VARARGS, "Once, before the first call: what of torch is asked."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_quick", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__quick(void) {
  text_current_level = PyUnicode_InternFromString("_current_level");
  text_forward = PyUnicode_InternFromString("forward");
  text_transform = PyUnicode_InternFromString("transform");
  text_training = PyUnicode_InternFromString("training");
  text_config = PyUnicode_InternFromString("config");
  text_tensors[0] = PyUnicode_InternFromString("_parameters");
  text_tensors[1] = PyUnicode_InternFromString("_buffers");
  text_hooks[0] = PyUnicode_InternFromString("_forward_hooks");
  text_hooks[1] = PyUnicode_InternFromString("_forward_pre_hooks");
  text_hooks[2] = PyUnicode_InternFromString("_backward_hooks");
  text_hooks[3] = PyUnicode_InternFromString("_backward_pre_hooks");
  return PyErr_Occurred() ? NULL : PyModule_Create(&module);
}
